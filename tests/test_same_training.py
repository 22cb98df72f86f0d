"""Law 8 by optimizer: which of them train a reserved network as the compact one."""

import jax
import pytest

from growthnet.testing import make_case, Resize, same_training
from growthnet.testing._laws_capacity import __name__ as law
from growthnet.testing._optimizers import Optimizer

from .optimizer_cases import CASES, FAST


EXCEPTIONS = {
    "adafactor": "clips by the mean square of an update, closed entries among them",
    "adafactor_momentum": "the same",
    "adafactor_unfactored": "the same",
    "noisy_sgd": "draws noise for the shape of a leaf",
    "contrib.muon": "scales by the shape of a leaf",
}
"""What goes by means, shapes or noise over an axis."""

NEEDS_MORE = "lbfgs lookahead polyak_sgd contrib.momo contrib.momo_adam contrib.sophia"
ABOUT_DICTS = "nest partition"
FAILS_ALONE = "contrib.galore"  # It can't take a tree with empty places.
LEFT_OUT = f"{NEEDS_MORE} {ABOUT_DICTS} {FAILS_ALONE}".split()


def named(names):
    """Optimizers by name; those that aren't fast are for the slow suite."""
    fast = FAST | EXCEPTIONS.keys()
    marks = lambda name: () if name in fast else pytest.mark.slow
    return [pytest.param(n, marks=marks(n)) for n in names if n not in LEFT_OUT]


def hold(name):
    optimizer = Optimizer(name, CASES[name].make(), {})
    with jax.enable_x64(True):
        case = make_case("mlp", act="tanh", dtype="float64")
        resize = Resize({"layers[0]": 5, "layers[1]": 4})
        same_training(case, resize, optimizer)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """At a rate of 0.1 some optimizers blow rounding up, given time."""
    monkeypatch.setattr(f"{law}.STEPS", 10)


@pytest.mark.parametrize("name", named(sorted(CASES.keys() - EXCEPTIONS.keys())))
def test_training_is_the_same(name):
    hold(name)


@pytest.mark.parametrize("name", named(EXCEPTIONS))
def test_exceptions_are_exceptions(name):
    with pytest.raises(AssertionError, match=f"'same_training'.*{name}.*differs by"):
        hold(name)
