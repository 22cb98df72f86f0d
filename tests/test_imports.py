"""What an import costs, what it offers, and that the type checks are switched on."""

import inspect
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

import growthnet
import growthnet_policies  # noqa: F401 - so that its loader can be asked for


OPTIONAL = (
    "chex",
    "flax",
    "growthnet_policies",
    "hypothesis",
    "matplotlib",
    "orbax",
    "sklearn",
)


def optional_modules_after(statement: str) -> set[str]:
    """The optional packages that a new interpreter has loaded after `statement`."""
    code = f"{statement}; import sys; print(*(set({OPTIONAL!r}) & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_core_imports_nothing_optional():
    assert optional_modules_after("import growthnet") == set()


def test_an_optional_import_would_be_noticed():
    assert optional_modules_after("import growthnet, chex") >= {"chex"}


PROBE = b"""
def double(x: int) -> int:
    return 2 * x
"""


def compiled_like(package: str) -> ModuleType:
    """A module with the content of `PROBE`, compiled as the package itself was."""
    spec = sys.modules[package].__spec__
    assert spec is not None and isinstance(spec.loader, SourceFileLoader)
    probe = ModuleType("probe")
    exec(spec.loader.source_to_code(PROBE, "probe.py"), probe.__dict__)
    return probe


@pytest.mark.parametrize("package", ["growthnet", "growthnet_policies"])
def test_annotations_are_checked_at_run_time(package):
    probe = compiled_like(package)
    assert probe.double(2) == 4
    with pytest.raises(Exception, match="int") as caught:
        probe.double("2")
    assert type(caught.value).__name__ == "TypeCheckError"


def test_annotations_of_other_packages_are_not_checked():
    assert compiled_like("pytest").double("2") == "22"


def undocumented(module: ModuleType) -> list[str]:
    """Public classes and functions that have no docstring of their own."""
    missing = []
    for name in sorted({*dir(module), *getattr(module, "__all__", ())}):
        value = getattr(module, name)
        if name.startswith("_") or inspect.ismodule(value) or not callable(value):
            continue
        doc = (getattr(value, "__doc__", None) or "").strip()
        made_by_dataclass = doc.startswith(f"{name}(") and inspect.isclass(value)
        if not doc or made_by_dataclass:
            missing.append(name)
    return missing


def test_every_public_name_is_documented():
    assert undocumented(growthnet) == []


def test_a_missing_docstring_would_be_noticed():
    module = ModuleType("module")
    exec(
        "import dataclasses, os\n"
        "def told(): 'Says what it does.'\n"
        "def untold(): pass\n"
        "def _private(): pass\n"
        "class Told: 'Says what it is.'\n"
        "class Untold(Told): pass\n"
        "@dataclasses.dataclass\n"
        "class Record: x: int\n",
        module.__dict__,
    )
    assert undocumented(module) == ["Record", "Untold", "untold"]
