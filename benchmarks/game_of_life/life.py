"""Conway's Game of Life on boards without an edge, and networks that predict a step.

The networks are those of Springer & Kenyon, "It's hard for neural networks to learn the
Game of Life", arXiv 2009.01398: 3 x 3 convolution to 2 m channels, 1 x 1 convolution to
m, both with relu, 1 x 1 convolution to the logit of being alive. With m = 1 and 25
parameters it is the smallest that can do it.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax


def step(boards: Any) -> Any:
    """The next boards of `[..., rows, columns]` of 0 and 1."""
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    around = sum(jnp.roll(boards, shift, (-2, -1)) for shift in shifts)
    alive = (around == 3) | ((around == 2) & (boards == 1))
    return alive.astype(boards.dtype)


def drawn(key: Any, density: Any, count: int, side: int) -> tuple[Any, Any]:
    """Boards whose cells are alive with a probability, and what comes of them."""
    boards = jr.bernoulli(key, density, (count, side, side)).astype(jnp.float32)
    return boards, step(boards)


def every_neighbourhood() -> np.ndarray:
    """A board of 8 x 64 cells on which each of the 512 neighbourhoods occurs once.

    Every column is a de Bruijn cycle of order 3, turned by some places. How far one is
    turned against the next goes through a de Bruijn cycle of order 2 over 8 symbols, so
    that three columns side by side are never turned in the same way twice (Cock,
    "Toroidal tilings from de Bruijn-Good cyclic sequences", Discrete Math. 70, 1988).
    """
    column, turns = np.array(de_bruijn(2, 3)), np.cumsum(de_bruijn(8, 2))
    rows = np.arange(8)[:, None]
    return column[(rows + turns[None]) % 8].astype(np.float32)


def de_bruijn(symbols: int, order: int) -> list[int]:
    """A cycle in which every word of `order` symbols occurs once: the Lyndon words
    whose length divides the order, one after the other."""
    cycle: list[int] = []
    word = [-1]
    while word:
        word[-1] += 1
        if order % len(word) == 0:
            cycle += word
        word = [word[i % len(word)] for i in range(order)]
        while word and word[-1] == symbols - 1:
            word.pop()
    return cycle


class Network(eqx.Module):
    """`[rows, columns]` of 0 and 1 to the logits of the next step."""

    layers: list[eqx.nn.Conv2d]

    def __init__(self, sizes: tuple[int, int], key: Any):
        keys, (a, b), round = jr.split(key, 3), sizes, "CIRCULAR"
        self.layers = [
            eqx.nn.Conv2d(1, a, 3, padding=1, padding_mode=round, key=keys[0]),
            eqx.nn.Conv2d(a, b, 1, key=keys[1]),
            eqx.nn.Conv2d(b, 1, 1, key=keys[2]),
        ]

    def __call__(self, board: Any) -> Any:
        first, second, last = self.layers
        return last(jax.nn.relu(second(jax.nn.relu(first(board[None])))))[0]


def loss(net: Any, batch: tuple[Any, Any], key: Any = None) -> Any:
    del key
    boards, after = batch
    return jnp.mean(optax.sigmoid_binary_cross_entropy(jax.vmap(net)(boards), after))


def right(net: Any, batch: tuple[Any, Any]) -> Any:
    """Is every cell of every board told right?"""
    boards, after = batch
    return jnp.all((jax.vmap(net)(boards) > 0) == (after == 1))


ALL = every_neighbourhood()
EVERYTHING = ALL[None], np.asarray(step(ALL))[None]
