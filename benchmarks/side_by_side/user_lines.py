"""How many lines of code a task takes its user: counted alike for every library."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any


def user_lines(*functions: Callable[..., Any]) -> int:
    """Lines of these functions in one common layout: comments, docstrings, empty lines
    and line breaks inside a statement don't count."""
    count = 0
    for function in functions:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        count += len(
            [s for s in ast.walk(tree) if isinstance(s, ast.stmt) and not _is_text(s)]
        )
    return count


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
