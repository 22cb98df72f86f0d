"""Installs growthnet in each way that people do, and imports it from elsewhere.

Run from an environment that has growthnet's dependencies:

    python tests/packaging/check_installs.py

Every way gets an environment of its own, which borrows the dependencies of the
running one. What is looked at there is told by the file itself, run with `--probe`.
"""

import importlib
import importlib.metadata as metadata
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "growthnet": ROOT / "growthnet",
    "growthnet_policies": ROOT / "policies" / "growthnet_policies",
}
POLICY = "gradient_size_weight"


def probe() -> dict[str, Any]:
    """What an environment tells about the growthnet that it imports."""
    modules = {name: importlib.import_module(name) for name in PACKAGES}
    folders = {name: Path(str(mod.__file__)).parent for name, mod in modules.items()}
    policies = metadata.entry_points(group="growthnet.policies")
    scripts = metadata.entry_points(group="console_scripts", name="growthnet")
    return {
        "folders": {name: str(folder) for name, folder in folders.items()},
        "typed": {name: (at / "py.typed").is_file() for name, at in folders.items()},
        "metadata in": str(metadata.distribution("growthnet").locate_file("")),
        "metadata version": metadata.version("growthnet"),
        "__version__": modules["growthnet"].__version__,
        "policies": sorted(entry.name for entry in policies),
        "policy loads": [e.load().__name__ for e in policies if e.name == POLICY],
        "script loads": [callable(entry.load()) for entry in scripts],
    }


def expected(site: Path, editable: bool) -> dict[str, Any]:
    """What `probe` has to tell in the environment with this site-packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = project["project"]["version"]
    installed = {name: site / name for name in PACKAGES}
    folders = PACKAGES if editable else installed
    return {
        "folders": {name: str(folder) for name, folder in folders.items()},
        "typed": dict.fromkeys(PACKAGES, True),
        "metadata in": str(site),
        "metadata version": version,
        "__version__": version,
        "policies": sorted(project["project"]["entry-points"]["growthnet.policies"]),
        "policy loads": ["GradientSizeWeight"],
        "script loads": [True],
    }


def pip(*args: str | Path, python: Path | str = sys.executable) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, *args]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def site_packages(environment: Path) -> Path:
    variables = {"base": str(environment), "platbase": str(environment)}
    return Path(sysconfig.get_path("purelib", "venv", variables))


def complaints(way: str, install: list[str | Path], scratch: Path) -> list[str]:
    """Installs in a new environment and tells where the probe is not as expected."""
    environment, elsewhere = scratch / way, scratch / f"{way}-elsewhere"
    venv.create(environment)
    elsewhere.mkdir()
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = environment / scripts / "python"
    pip("install", "--quiet", "--no-deps", *install, python=python)
    site = site_packages(environment)
    # A folder named in a .pth file comes after this site-packages, and the .pth
    # files inside it are not read: an editable growthnet in there stays unseen.
    borrowed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    run = subprocess.run(
        [python, "-I", __file__, "--probe"],
        cwd=elsewhere,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode != 0:
        return [f"{way}: the probe failed, see its traceback above"]
    found = json.loads(run.stdout.splitlines()[-1])
    return [
        f"{way}: {fact} is {found[fact]!r}, expected {wanted!r}"
        for fact, wanted in expected(site, editable="-e" in install).items()
        if found[fact] != wanted
    ]


def wheel_complaints(wheel: Path) -> list[str]:
    """A wheel holds the two packages and their metadata, nothing else."""
    files = zipfile.ZipFile(wheel).namelist()
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    found = {name.split("/")[0] for name in files}
    wrong = []
    if found != {*PACKAGES, info}:
        wrong.append(f"wheel: top-level names are {sorted(found)}")
    if f"{info}/licenses/LICENSE" not in files:
        wrong.append("wheel: the licence is missing")
    return wrong


def main() -> int:
    # Resolved, since an environment reports where it really lies.
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name).resolve()
        pip("wheel", "--quiet", "--no-deps", "--wheel-dir", scratch, ROOT)
        (wheel,) = scratch.glob("*.whl")
        wrong = wheel_complaints(wheel)
        ways: dict[str, list[str | Path]] = {
            "plain": [ROOT],
            "editable": ["-e", ROOT],
            "wheel": [wheel],
        }
        for way, install in ways.items():
            found = complaints(way, install, scratch)
            print(f"{way}: {'FAILED' if found else 'ok'}", flush=True)
            wrong += found
    for complaint in wrong:
        print(complaint, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    if "--probe" in sys.argv:
        print(json.dumps(probe()))
    else:
        sys.exit(main())
