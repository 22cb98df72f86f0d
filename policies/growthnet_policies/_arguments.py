"""Checks of what policies are given."""

from typing import Any


def at_least(name: str, value: Any, least: int) -> None:
    """**Raises:** `ValueError` unless the value is a whole number from `least` up."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}; a whole number from {least} up")
