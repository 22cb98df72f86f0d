"""What every test shares: JAX's strict settings, Hypothesis profiles, fixtures."""

import os
import zlib
from collections.abc import Iterator

import hypothesis
import jax
import jax.random as jr
import jaxtyping
import pytest
from jaxtyping import Array, PRNGKeyArray


# The variable reaches the subprocesses of tests, the setting reaches this process,
# in which JAX may have been imported already.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# No deadline: the first example of a shape compiles, the next ones do not. Drawing a
# network may compile as well, hence no complaint about slow data.
_common = hypothesis.settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("dev", _common, max_examples=15)
hypothesis.settings.register_profile("ci", _common, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


class _GetKey:
    """Hands out a new key at every call; its repr tells where the keys come from."""

    def __init__(self, seed: int):
        self.seed = seed
        self.count = 0

    def __call__(self) -> PRNGKeyArray:
        key: Array = jr.fold_in(jr.key(self.seed), self.count)
        self.count += 1
        return key

    def __repr__(self) -> str:
        return f"getkey(seed={self.seed}, count={self.count})"


@pytest.fixture
def getkey(request: pytest.FixtureRequest) -> _GetKey:
    """Fresh keys, the same ones at every run of the same test.

    Not for tests with `@given`, whose examples would share one sequence of keys:
    draw a seed there.
    """
    return _GetKey(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit types for one test; ask for it by `@pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """Turns run-time type checks off, to see the errors that users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def bounded_programs():
    """A process can't hold the programs of all tests: XLA crashes after some thousand.
    What is compiled for one file is of little use to the next."""
    yield
    jax.clear_caches()
