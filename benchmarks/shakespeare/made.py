"""What runs share: anatomies, edits, programs, and the seconds that these take."""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import growthnet as gn

from .network import Decoder, loss, params, Sizes
from .settings import Arm, LENGTH, Settings


Parts = dict[str, np.ndarray]
Path = tuple[Sizes, ...]


def planned(anatomy: gn.Anatomy, old: Sizes, new: Sizes, init: str) -> list[Any]:
    """Wider, then deeper by blocks that are added at the end. All of it is exact, and
    none of it depends on weights."""
    widths = {
        "embedding": new.stream,
        "blocks[*].attention.query_proj": new.heads,
        "blocks[*].mlp.layers[0]": new.hidden,
    }
    edits: list[Any] = [gn.plan(anatomy, widths, init=init)]
    for block in range(old.depth, new.depth):
        edits.append(gn.plan_deepen(edits[-1].after, f"blocks[{block}]"))
    return edits


class Made:
    """What is made once for all runs, with the seconds that it takes: anatomies, edits,
    and programs, of which learning rates are arguments."""

    def __init__(self, parts: Parts, s: Settings):
        self.parts, self.settings = parts, s
        self.text = jnp.asarray(parts["train"])
        self.kinds = 1 + int(max(part.max() for part in parts.values()))
        self.seconds: dict[Any, float] = {}
        self._there: dict[Any, Any] = {}

    def once(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._there:
            began = time.process_time()
            self._there[name] = make()
            self.seconds[name] = time.process_time() - began
        return self._there[name]

    def network(self, sizes: Sizes, key: Any) -> Decoder:
        return Decoder(sizes, self.kinds, LENGTH, key=key)

    def windows(self, part: str) -> Any:
        """The letters of a held-out play, each but the first told once."""
        text = self.parts[part]
        at = LENGTH * np.arange((len(text) - 1) // LENGTH)[:, None]
        return jnp.asarray(text[at + np.arange(LENGTH + 1)], int)

    def anatomy(self, path: Path, init: str) -> gn.Anatomy:
        first, *later = path
        if later:
            return self.edits(path, init)[-1].after
        net = eqx.filter_eval_shape(self.network, first, jr.key(0))
        text = jax.ShapeDtypeStruct((LENGTH,), int)
        return self.once(("trace", path), lambda: gn.trace(net, text))

    def edits(self, path: Path, init: str) -> list[Any]:
        """From the last but one of these sizes to the last."""
        before = self.anatomy(path[:-1], init)
        make = lambda: planned(before, path[-2], path[-1], init)
        return self.once(("edits", path, init), make)

    def steps(self, name: Any, optim: Any, carry: Any, static: Any) -> Any:
        """`chunk` steps, from arrays of the network and state, starts and rates."""

        def one(carry: Any, at: Any) -> Any:
            (arrays, state), (starts, rate) = carry, at
            windows = self.text[starts[:, None] + jnp.arange(LENGTH + 1)]
            net = eqx.combine(arrays, static)
            value, grads = eqx.filter_value_and_grad(loss)(net, windows.astype(int))
            updates, state = optim.update(grads, state, params(net))
            net = eqx.apply_updates(net, jax.tree.map(lambda u: -rate * u, updates))
            return (eqx.filter(net, eqx.is_array), state), value

        s = self.settings
        at = jnp.zeros((s.chunk, s.batch), int), jnp.zeros(s.chunk)
        scan = jax.jit(lambda carry, at: jax.lax.scan(one, carry, at))
        return self.once(("program", *name), lambda: scan.lower(carry, at).compile())

    def spent(self, kinds: tuple[str, ...], arm: Arm) -> float:
        """Seconds of what runs of an arm need."""
        ends = {arm.path[:i] for i in range(1, 1 + len(arm.path))}
        own = ([], [arm.init], [arm.init, arm.state == "warmed"])
        return sum(
            seconds
            for (kind, path, *rest), seconds in self.seconds.items()
            if kind in kinds and path in ends and rest in own
        )
