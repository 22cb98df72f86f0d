"""A run in a process of its own that kills itself: `python -m tests.killed_run`.

Arguments: the case, the folder of its checkpoints, the file for the finished run, and
where to die, by SIGKILL: `name:n`, at the nth call of a function of growthnet of this
name; `n`, at the nth event of any kind in growthnet's code (calls of functions, of
methods of files, of the system); `never`. At the end it prints how many events it saw.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import growthnet as gn

from . import checkpoint_cases as cases


HOME = str(Path(gn.__file__).parent)


class Killer:
    """Counts what happens in growthnet's code, and dies when its time has come."""

    def __init__(self, where: str):
        self.name, _, number = where.rpartition(":")
        self.left = None if where == "never" else int(number)
        self.seen = 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event == "return" or not frame.f_code.co_filename.startswith(HOME):
            return
        self.seen += 1
        if self.name and not (event == "call" and frame.f_code.co_name == self.name):
            return
        if self.left is not None:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


def main(name: str, folder: str, out: str, where: str) -> None:
    killer = Killer(where)
    print("begun", flush=True)
    sys.setprofile(killer)
    run = cases.fit(name, checkpoint=gn.Checkpoints(folder, every=5, keep=2))
    sys.setprofile(None)
    gn.save(out, run)
    print(killer.seen)


if __name__ == "__main__":
    main(*sys.argv[1:])
