"""Several processes, really started: one run on the devices of all of them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from growthnet._devices.everywhere import differences


ROOT = Path(__file__).parent.parent
DEVICES = 4


def start(folder: Path, what: str, count: int) -> list[dict[str, Any]]:
    """What each of `count` processes printed, which share so many devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flag = f"--xla_force_host_platform_device_count={DEVICES // count}"
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'policies'}",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}",
    }
    command = [sys.executable, "-m", "tests.process_run", port]
    started = [
        subprocess.Popen(
            [*command, str(index), str(count), what, str(folder / str(count))],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        texts = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, texts, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out.splitlines()[-1]) for out, _ in texts]


def test_two_processes_are_one_run(tmp_path):
    (one,) = start(tmp_path, "fit,hand", 1)
    two = start(tmp_path, "fit,hand,oneself", 2)
    for how in ("fit", "hand"):
        assert two[0][how] == two[1][how], "bit for bit in all processes"
        assert two[0][how]["sizes"] == one[how]["sizes"]
        for what in ("losses", "weights"):
            np.testing.assert_allclose(two[0][how][what], one[how][what], rtol=1e-5)
    assert 4 < one["fit"]["sizes"]["layers[0]"] < 12, "sometimes it grew"
    assert one["hand"]["specs"] == ["P('data',)", "P()", "P(None, 'data')"]
    # Saved once, by the first of them.
    saved = [[p.name for p in (tmp_path / n).iterdir()] for n in "12"]
    assert sorted(saved[0]) == sorted(saved[1])
    # Copies that decide by their own data are found out, by both.
    assert two[0]["oneself"] == two[1]["oneself"]
    assert two[0]["oneself"]["step"] == 25
    text = "different networks: width 'layers[0]' is 8 in process 0 but 16 in process 1"
    assert text in two[0]["oneself"]["error"]


def test_differences_are_named():
    found = [{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}, {"a": "1", "b": "2"}]
    text = differences("networks", found)
    assert "b is 2 in process 0, 2 but 3 in process 1" in text
    assert "c is nothing in process 0, 2 but 4 in process 1" in text
    assert "a is" not in text
    many = differences("networks", [{n: "0" for n in "abcde"}, {}])
    assert "and 2 more" in many
