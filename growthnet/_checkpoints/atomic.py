"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


PARTIAL = ".part"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when all of it is on disk.

    What was at `path` stays until then, whatever happens: an error, a full disk, a
    killed process, a power cut.

    **Raises:** `OSError` naming the file, with the reason of the system.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = "; the file that was there is intact" if path.exists() else ""
        text = f"{error.strerror or error}: {path} could not be written{kept}"
        raise OSError(error.errno, text) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """The new name, too, has to be on disk."""
    if os.name != "posix":  # Elsewhere folders can't be opened.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path, pattern: str) -> None:
    """Removes what a killed process left of files like this."""
    for partial in folder.glob(f".{pattern}.*{PARTIAL}"):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
