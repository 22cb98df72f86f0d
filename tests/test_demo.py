"""The command line, and a short run of the demo."""

import contextlib
import dataclasses
import io
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import growthnet as gn
from growthnet import _demo
from growthnet.__main__ import main


@dataclasses.dataclass(frozen=True)
class Shown:
    status: int
    out: str
    err: str
    folder: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a demo of some steps prints and writes."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    sizes = ["--start", "2", "--target", "4", "--steps", "60"]
    with (
        # Adam raises a float to an integer power, which strict promotion forbids.
        jax.numpy_dtype_promotion("standard"),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        status = main(["demo", *sizes, "--seed", "3", "--out", str(folder)])
    return Shown(status, out.getvalue(), err.getvalue(), folder)


def test_the_demo_grows(shown):
    assert shown.status == 0
    header, first = re.findall(r"^(?: *step| +\d+)  .*$", shown.out, re.MULTILINE)[:2]
    assert (
        header.split()
        == (
            "step width units how loss before loss after output change seconds compiles"
        ).split()
    )
    assert re.match(r" *\d+  layers\[0\]  2 -> 3  (opened|resized)  ", first)


def test_the_demo_compares_with_static_networks(shown):
    rows = re.findall(r"^(s.*?)  +(\d) +(\d+) +[\d.]+ % ", shown.out, re.MULTILINE)
    assert rows == [
        ("size weight, 2 -> 4", "4", str(64 * 4 + 4 + 4 * 10 + 10)),
        ("static, final size", "4", str(64 * 4 + 4 + 4 * 10 + 10)),
        ("static, starting size", "2", str(64 * 2 + 2 + 2 * 10 + 10)),
    ]


def test_the_demo_says_what_it_does_not_show(shown):
    assert "That target was given (--target), not found in training." in shown.out
    assert "one seed (3) without an interval" in shown.out


def test_the_demo_shows_its_progress_apart(shown):
    lines = shown.err.splitlines()
    assert len(lines) == 30
    pattern = (
        r"size weight: 60/60 steps  loss [\d.]+ \(valid [\d.]+\)  layers\[0\] 4 .*"
    )
    assert re.fullmatch(pattern, lines[9])


def test_the_demo_leaves_a_picture_and_its_records(shown):
    assert sorted(file.name for file in shown.folder.iterdir()) == [
        *("growth.jsonl", "growth.png"),
    ]
    assert (shown.folder / "growth.png").stat().st_size > 10_000
    history = gn.History.from_jsonl(shown.folder / "growth.jsonl")
    assert history.steps == 60
    assert history.sizes_of("layers[0]")[1][-1] == 4
    assert history.table() in shown.out
    assert all(event.output_change == 0 for event in history.events)


def test_the_split_is_fixed_stratified_and_standardised_by_training_data():
    data = _demo.digits()
    parts = [data.train, data.valid, data.test]
    assert [len(labels) for _, labels in parts] == [300, 300, 1197]
    for _, labels in parts:
        shares = np.bincount(labels, minlength=10) / len(labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.01)
    images, _ = data.train
    np.testing.assert_allclose(np.mean(images, axis=0), 0.0, atol=1e-6)
    rows = [tuple(row) for images, _ in parts for row in np.asarray(images)]
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(_demo.digits().train[0], data.train[0])


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--help"], "demo"),
        (["demo", "--help"], "--target TARGET"),
        (["--version"], f"growthnet {gn.__version__}"),
    ],
)
def test_help_is_there(arguments, told, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main(arguments)
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "the following arguments are required: command"),
        (["grow"], "invalid choice: 'grow'"),
        (["demo", "--target", "0"], "--target: '0' is not a whole number from 1 up"),
        (["demo", "--start", "few"], "--start: 'few' is not a whole number from 1 up"),
        (["demo", "--steps", "1.5"], "--steps: '1.5' is not a whole number"),
        (["demo", "--seed", "-1"], "--seed: '-1' is not a whole number from 0 up"),
        (["demo", "--data", "faces"], "--data: invalid choice: 'faces'"),
        (["demo", "--out", __file__], "--out: File exists"),
        (["demo", "--widht", "3"], "unrecognized arguments: --widht"),
    ],
)
def test_bad_arguments_get_one_line(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err and err.startswith("growthnet") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "module, package", [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")]
)
def test_a_missing_package_names_the_extra(
    module, package, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"growthnet demo: error: {package} not found; get what the demo needs by: "
        'pip install "growthnet[examples]"\n'
    )
