"""Runs whose process is killed, really, at any moment: they end as if they hadn't."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from growthnet._checkpoints.saved import Saved

from . import checkpoint_cases as cases


ROOT = Path(__file__).parent.parent


def start(name: str, folder: Path, where: str) -> subprocess.Popen:
    paths = [str(folder / "kept"), str(folder / "final")]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.killed_run", name, *paths, where],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'policies'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen) -> str | None:
    """What the process printed, `None` if it was killed."""
    out, errors = process.communicate(timeout=300)
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, errors
    return out


def content(path: Path) -> dict[str, Any]:
    """All of a saved run but its times."""
    return cases.content_of(Saved.read(path))


def killed_often(name: str, folder: Path, deaths: list[Any]) -> int:
    """Starts a run again and again until it is finished; kills it at the places that
    are left. How often it died."""
    died = 0
    while not (folder / "final").exists():
        where = deaths.pop(0) if deaths else "never"
        process = start(name, folder, where if isinstance(where, str) else "never")
        if isinstance(where, float):
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(where)
            process.kill()
        died += finished(process) is None
    return died


def test_a_killed_run_goes_on(tmp_path):
    # In the first save, half-way through the file; in an edit; when the second file has
    # just got its name; some time later, from outside.
    deaths: list[Any] = ["_bytes:40", "make_room:1", "_sync_folder:2", 0.5]
    assert killed_often("mlp", tmp_path, deaths) == 4
    assert len(list((tmp_path / "kept").iterdir())) == 2, "what was cut short is gone"
    assert content(tmp_path / "final") == cases.content(cases.fit("mlp"))


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.NAMES)
def test_runs_killed_at_random_moments_go_on(name, tmp_path):
    rng = random.Random(name)
    seen = finished(start(name, tmp_path / "whole", "never"))
    assert seen is not None
    events = int(seen.split()[-1])
    functions = ("_bytes", "_sync_folder", "whole_file", "make_room", "give_back")
    functions += ("_record", "_call", "saved", "restored", "transfer")
    whole, died, rounds = content(tmp_path / "whole" / "final"), 0, 0
    while died < 10:
        rounds += 1
        deaths = [
            *(f"{rng.choice(functions)}:{rng.randrange(1, 40)}" for _ in range(2)),
            *(f"{rng.randrange(1, events)}" for _ in range(2)),
            *(rng.uniform(0, 5) for _ in range(2)),
        ]
        rng.shuffle(deaths)
        folder = tmp_path / str(rounds)
        died += killed_often(name, folder, deaths)
        assert content(folder / "final") == whole
        assert len(list((folder / "kept").iterdir())) == 2
    print(f"{name}: killed {died} times in {rounds} runs of {events} events")
