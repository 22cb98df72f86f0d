"""Several processes, one run: what all of them have to have alike."""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._paths import array_leaves
from .._reading.anatomy import Anatomy
from .places import mesh_of


def check_same_everywhere(net: Any) -> None:
    """Do all processes of `jax.distributed` have the same architecture?

    A process that took another decision than the others would wait for them for ever,
    or train something else in silence. Call this where sizes may have changed; every
    process has to. `fit` and `Grower.resize` do, where the network is on a mesh that
    spans several processes.

    **Arguments:**

    - `net`: an `Anatomy`, or any tree of arrays: a network, a `Growing`, an optimizer
        state. Names, shapes and dtypes of its arrays are compared, and the widths of an
        anatomy in it; not the numbers.

    **Raises:** `ValueError` in every process, with the sizes that each of them has
    where they differ.

    !!! example

        ```python
        jax.distributed.initialize(...)
        model, state = grower.resize(model, state)
        gn.check_same_everywhere(model)
        ```
    """
    if jax.process_count() > 1:
        compare("networks", architecture(net))


def compare(what: str, own: dict[str, str]) -> None:
    """Do all processes say the same here?

    **Raises:** `ValueError` in all of them, with what each says.
    """
    text = json.dumps(own).encode()
    digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
    # The length of the text goes along: texts are gathered at one length.
    head = np.concatenate([digest, np.frombuffer(np.int64(len(text)), np.uint8)])
    heads = multihost_utils.process_allgather(head)
    if (heads == heads[0]).all():
        return
    longest = int(heads[:, 32:].copy().view(np.int64).max())
    padded = np.frombuffer(text.ljust(longest), np.uint8)
    texts = multihost_utils.process_allgather(padded)
    raise ValueError(differences(what, [json.loads(t.tobytes()) for t in texts]))


def architecture(net: Any) -> dict[str, str]:
    """What a network is made of, by name: the sizes of its widths, its arrays."""
    nodes = jax.tree.leaves(net, is_leaf=lambda x: isinstance(x, Anatomy))
    anatomies = [net] if isinstance(net, Anatomy) else []
    anatomies += [x for x in nodes if isinstance(x, Anatomy)]
    found = {f"width {w.name!r}": f"{w.size}" for a in anatomies for w in a.all_widths}
    for anatomy in anatomies:
        found |= {x.path: f"{x.dtype}{list(x.shape)}" for x in anatomy.leaves}
    arrays = array_leaves(net).items()
    return found | {path: f"{x.dtype}{list(x.shape)}" for path, x in arrays}


def differences(what: str, found: list[dict[str, str]]) -> str:
    """Which process has what, for the first names where they differ."""
    names = list(dict.fromkeys(name for one in found for name in one))
    get = lambda one, name: one.get(name, "nothing")
    differ = [n for n in names if len({get(one, n) for one in found}) > 1]
    lines = []
    for name in differ[:3]:
        has: dict[str, list[str]] = {}
        for i, one in enumerate(found):
            has.setdefault(get(one, name), []).append(f"{i}")
        said = (f"{value} in process {', '.join(who)}" for value, who in has.items())
        lines.append(f"{name} is {' but '.join(said)}")
    more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
    return (
        f"the processes have different {what}: {', and '.join(lines)}{more}; give "
        "all of them the same key, policy and evidence (reduced over all devices, as "
        "the loss of a global batch is), and no clock to decide by"
    )


def spans_processes(tree: Any) -> bool:
    """Are the arrays of a tree on a mesh that no process has alone?"""
    mesh = mesh_of(tree)
    return mesh is not None and mesh.is_multi_process


def agreed(number: float) -> float:
    """A number that a clock has told: the one of the first process."""
    return float(multihost_utils.broadcast_one_to_all(np.float32(number)))
