"""The file of a checkpoint: exact, readable, and refused where it is damaged."""

import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._checkpoints.container import (
    read_container,
    read_record,
    write_container,
)
from growthnet._checkpoints.saved import Saved

from .checkpoint_cases import Ages, content_of


DTYPES = ["bool", "int4", "int8", "uint16", "int32", "uint64", "bfloat16", "float16"]
DTYPES += ["float32", "float64", "float8_e4m3fn", "float8_e5m2", "complex64"]


@st.composite
def arrays(draw):
    dtype = jnp.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    numbers = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 7, shape)
    return numbers.astype(dtype)


@hypothesis.given(st.dictionaries(st.text(max_size=8), arrays(), max_size=6))
def test_what_is_written_is_read(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    record = {"step": 7, "names": {"ä\n": [1, None, "x"]}}
    write_container(path, found, record)
    read, back = read_container(path)
    assert read == record and list(back) == list(found)
    for name, array in found.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()
    _, table = read_record(path)
    assert table == {n: (str(x.dtype), x.shape) for n, x in found.items()}
    others = as_safetensors(path)
    for name, array in found.items():
        if array.dtype == np.float32:
            assert others[name].tobytes() == array.tobytes()


def as_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 arrays, by nothing but the specification of safetensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert data[8:9] == b"{" and length % 8 == 0
    about = header.pop("__metadata__")
    assert all(isinstance(x, str) for x in about.values())
    spans = [entry["data_offsets"] for entry in header.values()]
    ends = [0, *(end for _, end in spans)]
    assert [start for start, _ in spans] == ends[:-1], "no holes"
    assert 8 + length + ends[-1] == len(data)
    return {
        name: np.frombuffer(data, "<f4", (b - a) // 4, 8 + length + a).reshape(
            x["shape"]
        )
        for (name, x), (a, b) in zip(header.items(), spans, strict=True)
        if x["dtype"] == "F32"
    }


# --- damage


def network():
    return eqx.nn.MLP(3, 2, 64, 1, activation=jnp.tanh, key=jr.key(0))


def grower():
    return gn.Grower(Ages(), optax.adam(1e-2))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A saved run."""
    path = tmp_path_factory.mktemp("good") / "run.safetensors"
    net = network()
    gn.save(path, grower().init(net, gn.trace(net, jnp.ones(3)), key=jr.key(0)))
    return path


def load(path: Path) -> gn.Run:
    return gn.load(path, network(), gn.trace(network(), jnp.ones(3)), grower())


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The file as a bad disk, a broken copy or a careless hand would leave it."""
    new = bytearray(data)
    at = rng.randrange(len(data))
    count = rng.choice([1, 1, 4, 64, 4096])
    match rng.randrange(7):
        case 0:
            return data[:at]
        case 1:
            return data + rng.randbytes(count)
        case 2:
            new[at] ^= 1 << rng.randrange(8)
        case 3:
            new[at : at + count] = bytes(len(new[at : at + count]))
        case 4:
            new[at : at + count] = b""
        case 5:
            new[at:at] = rng.randbytes(count)
        case 6:
            other = rng.randrange(len(data))
            new[at : at + count] = data[other : other + count]
    return bytes(new)


def forged(data: bytes, rng: random.Random) -> bytes:
    """The header changed, and its checksum with it."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    place: Any = header
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if isinstance(inner, str) and inner[:1] in "{[" and place is not header:
            inside = json.loads(inner)
            if inside:
                other = rng.choice(list(inside) if isinstance(inside, dict) else [0])
                inside[other] = rng.choice([None, -1, "x", [], {}, 1e30, [[]]])
                place[key] = json.dumps(inside)
                break
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            new = rng.choice([None, -1, "x", [], {}, 2**70, "[1]", "{}", '{"a": 1}'])
            place[key] = new
            break
        place = inner
    text = json.dumps(header).encode()
    start = struct.pack("<Q", len(text)) + text
    return start + data[8 + length : -4] + struct.pack("<I", zlib.crc32(start))


def check_refused(good: Path, tmp_path: Path, seed: int) -> None:
    data, rng = good.read_bytes(), random.Random(seed)
    path = tmp_path / "bad.safetensors"
    path.write_bytes(bad := damaged(data, rng))
    try:
        read = Saved.read(path)
    except gn.CheckpointError as error:
        assert str(path) in str(error) and bad != data
    else:
        assert content_of(read) == content_of(Saved.read(good)), "loaded wrong"


def check_forged(good: Path, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "forged.safetensors"
    path.write_bytes(forged(good.read_bytes(), random.Random(seed)))
    try:
        load(path)
    except gn.CheckpointError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("check, count", [(check_refused, 60), (check_forged, 15)])
def test_damaged_files_are_refused(good, tmp_path, check, count):
    for seed in range(count):
        check(good, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("check, count", [(check_refused, 1000), (check_forged, 500)])
def test_many_damaged_files_are_refused(good, tmp_path, check, count):
    for seed in range(1000, 1000 + count):
        check(good, tmp_path, seed)
