"""The rules of this house that no linter knows."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
SHIPPED = ("growthnet", "policies")
EVERYWHERE = (*SHIPPED, "benchmarks", "examples", "tests")

# The aims are 300 and 60; these are the limits.
FILE_LINES = 400
FUNCTION_LINES = 80

Rule = Callable[[str], Iterator[str]]


def long_files(source: str) -> Iterator[str]:
    """A file has at most `FILE_LINES` lines."""
    count = len(source.splitlines())
    if count > FILE_LINES:
        yield f"1: {count} lines, at most {FILE_LINES}"


def long_functions(source: str) -> Iterator[str]:
    """A function has at most `FUNCTION_LINES` lines, its docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = _last_line(node) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                doc = node.body[0]
                count -= _last_line(doc) - doc.lineno + 1
            if count > FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {count} lines"


def _last_line(node: ast.stmt) -> int:
    return node.lineno if node.end_lineno is None else node.end_lineno


def unfinished_work(source: str) -> Iterator[str]:
    """What is left to do stands in an issue, not in the code."""
    for number, line in enumerate(source.splitlines(), start=1):
        # The brackets keep this line from accusing itself.
        if re.search(r"\b(TO[D]O|FIX[M]E|X[X]X)\b", line):
            yield f"{number}: {line.strip()}"


def postponed_annotations(source: str) -> Iterator[str]:
    """Annotations are evaluated: as strings they would escape the type checks."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            if any(alias.name == "annotations" for alias in node.names):
                yield f"{node.lineno}: from __future__ import annotations"


def unread_messages(source: str) -> Iterator[str]:
    """Whoever expects an error says what its message says."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "pytest.raises",
            "raises",
        }:
            if all(keyword.arg != "match" for keyword in node.keywords):
                yield f"{node.lineno}: {ast.unparse(node)} has no match="


def _function_of(lines: int, doc: str = "") -> str:
    body = [f'    """{doc}"""'] * bool(doc) + ["    pass"] * (lines - 1)
    return "\n".join(["def f():", *body])


# Each rule with where it holds, a source that breaks it, and one that just does not.
RULES: dict[Rule, tuple[tuple[str, ...], str, str]] = {
    long_files: (SHIPPED, "\n" * (FILE_LINES + 1), "\n" * FILE_LINES),
    long_functions: (
        SHIPPED,
        _function_of(FUNCTION_LINES + 1),
        _function_of(FUNCTION_LINES, doc="Two\nlines."),
    ),
    unfinished_work: (EVERYWHERE, "x = 1  # TO" + "DO: two", "method = 'todo'"),
    postponed_annotations: (
        EVERYWHERE,
        "from __future__ import annotations",
        "from __future__ import division",
    ),
    unread_messages: (
        ("tests",),
        "with pytest.raises(ValueError):\n    f()",
        "with pytest.raises(ValueError, match='unknown width'):\n    f()",
    ),
}

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


@every_rule
def test_rule_holds(rule):
    folders, _, _ = RULES[rule]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert files
    broken = [
        f"{path.relative_to(ROOT)}:{complaint}"
        for path in sorted(files)
        for complaint in rule(path.read_text(encoding="utf-8"))
    ]
    assert not broken, "\n".join([rule.__doc__, *broken])


@every_rule
def test_rule_can_fail(rule):
    _, bad, good = RULES[rule]
    assert list(rule(bad))
    assert not list(rule(good))


def test_the_dev_extra_is_the_sum_of_the_dependency_groups():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    extras = project["project"]["optional-dependencies"]
    assert sorted(extras["dev"]) == sorted(groups["dev"] + groups["tests"])


def test_the_all_extra_names_every_other_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    # `real` is for one test only, and heavy.
    others = ",".join(sorted(extras.keys() - {"all", "dev", "real"}))
    assert extras["all"] == [f"growthnet[{others}]"]
