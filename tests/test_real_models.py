"""Models of other people's packages: traced unchanged, grown, shrunk, trained on.

    pip install -e ".[dev,real]"
    python -m pytest -m real tests/test_real_models.py

A model whose package isn't there is skipped. The table of docs/real_models.md comes
from the same proofs: `python -m benchmarks.real_models`.
"""

import collections
import importlib.util
import re
from collections.abc import Iterator

import jax
import pytest

from .real_models import Model, MODELS
from .real_proof import prove


# Other people's packages warn, and promote types and ranks, as they please.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]

# Widths that have to grow exactly, and how many there are of each kind; the rest of a
# model's widths are rigid, or change its function.
GROWS: dict[str, dict[str, int]] = {}


@pytest.fixture(autouse=True)
def plain_jax() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _present(model: Model) -> bool:
    return all(importlib.util.find_spec(name) for name in model.modules)


@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_grows_and_shrinks(name):
    model = MODELS[name]
    if not _present(model):
        pytest.skip(f"needs {', '.join(model.packages)}")
    proof = prove(model)
    grown = [re.sub(r"\d+", "*", n) for sizes in proof.growth.values() for n in sizes]
    assert dict(collections.Counter(grown)) == GROWS[name]
    # Where units are silent only sums get other zeros; a clone adds up shares.
    assert proof.difference < 1e-5
    assert proof.round_trip < (1e-6 if "clone" in proof.growth else 1e-30)
    assert proof.shrunk and proof.true and proof.finite
    assert proof.losses[0] != proof.losses[1]
    assert proof.reset == 0
