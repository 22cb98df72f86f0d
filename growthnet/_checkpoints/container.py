"""The file of a checkpoint: named arrays and a record, every byte under a checksum.

It is a safetensors file, so that other programs can read the arrays: the length of a
header, the header (JSON), the arrays' bytes one after another. What growthnet adds is
inside that format: the record is the header's `__metadata__`, with a CRC-32 for every
array, and the last tensor is the CRC-32 of the header itself. So whatever is cut off,
changed or appended is noticed, and in which array.

This file knows neither networks nor runs.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from .atomic import whole_file


FORMAT = "growthnet"
VERSION = 1
SEAL = "growthnet.header_crc32"
"""The tensor that holds the checksum of the header."""
LONGEST_HEADER = 100_000_000

_DTYPES = {
    "bool": "BOOL",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    **{f"float{n}": f"F{n}" for n in (16, 32, 64)},
    **{f"int{n}": f"I{n}" for n in (8, 16, 32, 64)},
    **{f"uint{n}": f"U{n}" for n in (8, 16, 32, 64)},
}
_NAMES = {code: name for name, code in _DTYPES.items()}


MALFORMED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What JSON of another form leads to."""


class CheckpointError(ValueError):
    """A file isn't a checkpoint, isn't whole, or isn't that of the run at hand.

    The message says which file, what is wrong with it and where, and what to do.
    """


def write_container(
    path: Path, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> None:
    """Writes a file that appears whole or not at all.

    **Arguments:** arrays by name, of any dtype that numpy knows through JAX; a record
    of what JSON can say.

    **Raises:** `OSError` if it can't be written.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = _header(arrays, record)
    start = struct.pack("<Q", len(header)) + header
    with whole_file(path) as file:
        file.write(start)
        for array in arrays.values():
            file.write(_bytes(array))
        file.write(struct.pack("<I", zlib.crc32(start)))


def _bytes(array: np.ndarray) -> Any:
    return array.reshape(-1).view(np.uint8).data if array.size else b""


def _header(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> bytes:
    table: dict[str, Any] = {}
    others: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        code, shape = _DTYPES.get(str(array.dtype)), list(array.shape)
        if code is None:  # A dtype that safetensors lacks: its bytes, and a note.
            others[name] = [str(array.dtype), shape]
            code, shape = "U8", [array.nbytes]
        span = [end, end := end + array.nbytes]
        table[name] = {"dtype": code, "shape": shape, "data_offsets": span}
    table[SEAL] = {"dtype": "U32", "shape": [1], "data_offsets": [end, end + 4]}
    checksums = {name: zlib.crc32(_bytes(array)) for name, array in arrays.items()}
    whole = {**record, "other_dtypes": others, "crc32": checksums}
    texts = {key: json.dumps(value, allow_nan=False) for key, value in whole.items()}
    about = {"format": FORMAT, "version": str(VERSION), **texts}
    text = json.dumps({"__metadata__": about, **table}).encode()
    return text + b" " * (-len(text) % 8)


def read_container(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The record and the arrays of a file, all of it verified.

    **Raises:** `CheckpointError` for a file that is foreign, newer, cut short or
    damaged; `FileNotFoundError`.
    """
    with open(path, "rb") as file:
        record, table = _opened(file, path)
        arrays = {name: _array(file, path, name, *table[name]) for name in table}
    return record, arrays


def read_record(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, tuple]]]:
    """The record, and the dtype and shape of every array, from the header alone.

    **Raises:** as `read_container`; damage inside the arrays isn't noticed.
    """
    with open(path, "rb") as file:
        record, table = _opened(file, path)
    return record, {
        name: (str(dtype), shape) for name, (dtype, shape, _) in table.items()
    }


_Entry = tuple[np.dtype, tuple[int, ...], int]
"""Of an array: its dtype, its shape, its checksum."""


def _opened(file: BinaryIO, path: Path) -> tuple[dict[str, Any], dict[str, _Entry]]:
    """Reads and verifies the header; leaves the file at the first array."""
    size = os.fstat(file.fileno()).st_size
    foreign = f"{path} isn't a checkpoint of growthnet"
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    text = file.read(min(length, LONGEST_HEADER, 4096))
    if not (text.startswith(b'{"__metadata__": {"format": "growthnet"')):
        found = "it is empty" if not size else f"it begins with {(start + text)[:24]!r}"
        raise CheckpointError(f"{foreign} ({found}); give a file that `gn.save` wrote")
    if length > min(LONGEST_HEADER, size - 8):
        raise CheckpointError(
            f"{path} was cut short: its header takes {length} bytes, the file has "
            f"{size}; give another checkpoint"
        )
    header = start + text + file.read(length - len(text))
    data = file.tell()
    file.seek(-4, os.SEEK_END)
    seal = file.read(4)
    file.seek(data)
    try:
        entries = json.loads(header[8:])
        about = entries.pop("__metadata__")
        version, end = int(about["version"]), entries[SEAL]["data_offsets"][1]
    except (*MALFORMED, RecursionError) as error:
        raise _damaged(
            path, "the header", f"no JSON of a checkpoint: {error}"
        ) from None
    if size != data + end:
        raise CheckpointError(
            f"{path} has {size} bytes where its header says {data + end}: it was "
            f"{'cut short' if size < data + end else 'written to'} after it was saved; "
            "give another checkpoint"
        )
    if seal != struct.pack("<I", zlib.crc32(header)):
        raise _damaged(path, "the header", "its checksum is another")
    if version > VERSION:
        raise CheckpointError(
            f"{path} has format {version}; this growthnet reads formats up to "
            f"{VERSION}: update growthnet"
        )
    try:
        texts = {k: v for k, v in about.items() if k not in ("format", "version")}
        record = {key: json.loads(text) for key, text in texts.items()}
        table = _table(entries, record.pop("other_dtypes"), record.pop("crc32"))
    except MALFORMED as error:
        raise _damaged(path, "the header", f"{error!r}") from None
    return record, table


def _damaged(path: Path, what: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged in {what} ({why}); give another checkpoint"
    )


def _table(
    entries: Mapping[str, Any], others: Mapping[str, Any], checksums: Mapping[str, Any]
) -> dict[str, _Entry]:
    table: dict[str, _Entry] = {}
    end = 0
    for name, entry in entries.items():
        if name == SEAL:
            continue
        first, last = entry["data_offsets"]
        named = others.get(name, [_NAMES[entry["dtype"]], entry["shape"]])
        dtype, shape = jnp.dtype(named[0]), tuple(map(int, named[1]))
        first, last = int(first), int(last)
        if first != end or last - first != dtype.itemsize * math.prod(shape):
            raise ValueError(f"{name} has {last - first} bytes from {first} on")
        table[name] = (dtype, shape, int(checksums[name]))
        end = last
    if entries[SEAL]["data_offsets"] != [end, end + 4]:
        raise ValueError(f"the arrays end at {end}")
    return table


def _array(
    file: BinaryIO,
    path: Path,
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    checksum: int,
) -> np.ndarray:
    data = file.read(dtype.itemsize * math.prod(shape))
    if zlib.crc32(data) != checksum:
        raise _damaged(path, f"the array {name!r}", "its checksum is another")
    return np.ndarray(shape, dtype, data)
