"""`check_network`: the laws, on your own network."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from .._reading.anatomy import Anatomy
from ._laws import preservation, shrink_is_silence, symmetry
from ._laws_capacity import opening_is_resizing, same_training
from ._laws_optimizer import optimizer_follows
from ._laws_training import alive_newborns
from ._laws_trees import round_trip, truth
from ._networks import Case
from ._ops import OPS, Ops, read
from ._resizes import Resize, sample_resize


LAWS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        "preservation": preservation,
        "alive_newborns": alive_newborns,
        "shrink_is_silence": shrink_is_silence,
        "round_trip": round_trip,
        "symmetry": symmetry,
        "truth": truth,
        "optimizer_follows": optimizer_follows,
        "opening_is_resizing": opening_is_resizing,
        "same_training": same_training,
    }
)
"""The laws by name, in the order of their numbers."""

CHECKED = ("preservation", "shrink_is_silence", "round_trip", "symmetry", "truth")
"""What must hold whatever the numbers in a network are, trained or not."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check_network` looked at. `print` it."""

    network: str
    anatomy: Anatomy = dataclasses.field(repr=False)
    resizes: tuple[Resize, ...]
    laws: tuple[str, ...]

    def __str__(self) -> str:
        widths = ", ".join(
            f"{w.name} ({w.size})" for w in self.anatomy.all_widths if w.growable
        )
        lines = [
            f"{self.network}: {', '.join(self.laws)} hold for {widths}",
            *(
                "    "
                + ", ".join(_change(self.anatomy, n, s) for n, s in r.sizes.items())
                for r in self.resizes
            ),
        ]
        for w in self.anatomy.all_widths:
            lines += [f"{w.name} can't change: {r}" for r in w.reasons]
            lines += [f"{w.name} doesn't grow exactly: {r}" for r in w.drift]
        return "\n".join(lines)


def _change(anatomy: Anatomy, name: str, size: int) -> str:
    return f"{name} {anatomy.widths[name].size} -> {size}"


def check_network(
    net: Any,
    *args: Any,
    call: Callable[..., Any] | None = None,
    build: Callable[[Mapping[str, int]], Any] | None = None,
    seed: int = 0,
    examples: int = 4,
    ops: Ops = OPS,
) -> Report:
    """Tests that a network can be resized: finds its widths, changes them at random,
    and holds the results against laws 1, 3, 4, 5 and 6.

    **Arguments:**

    - `net`, `args`, `call`: as `growthnet.trace` takes them. Floating point arguments
        are drawn anew, only their shapes count; integers and keys are used as they are.
    - `build`: optionally, from sizes by width name to a network as its constructor
        would build it, or `None` where it can't. Results must then have its structure.
    - `seed`: the same seed tests the same changes.
    - `examples`: how many changes are tried. Each compiles the network twice or so.
    - `ops`: the operations to test; only of interest to those who test tests.

    **Returns:** a `Report`; `print` it.

    **Raises:** `AssertionError` naming the law that doesn't hold, the widths and sizes,
    and how far off it was; `ValueError` if the network has no width that can change.

    !!! example

        ```python
        def test_my_model_can_be_resized():
            check_network(MyModel(key=jax.random.key(0)), jnp.zeros(4))
        ```
    """
    case = Case(type(net).__name__, net, args, call, build=build)
    anatomy = read(case, ops)
    if not any(w.growable for w in anatomy.all_widths):
        raise ValueError(f"{case} has no width that can change:\n{anatomy}")
    rng = np.random.default_rng(seed)
    resizes = tuple(sample_resize(anatomy, rng) for _ in range(examples))
    for resize in resizes:
        for name in CHECKED:
            LAWS[name](case, resize, ops=ops)
    return Report(repr(case), anatomy, resizes, CHECKED)
