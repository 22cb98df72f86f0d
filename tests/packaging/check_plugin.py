"""Installs the plug-in of `examples/plugin` beside growthnet and runs its tests.

    python tests/packaging/check_plugin.py

It goes to a folder of its own, not into the running environment.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "examples" / "plugin"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", folder, str(PLUGIN)], check=True)
        where = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        given = ["--rootdir", folder, "-c", os.devnull, str(PLUGIN / "tests")]
        subprocess.run(
            [*pytest, *given],
            check=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": where},
        )


if __name__ == "__main__":
    main()
