"""The benchmark of the Game of Life in small, and what its numbers are made of."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from benchmarks.game_of_life import costs, report, run
from benchmarks.game_of_life.arms import Arm, ARMS, FIRST, SECOND
from benchmarks.game_of_life.figure import figure
from benchmarks.game_of_life.life import ALL, drawn, loss, Network, step
from benchmarks.game_of_life.policies import Carve, knows, Solved
from benchmarks.game_of_life.settings import QUICK
from benchmarks.intervals import wilson


SMALL = dataclasses.replace(QUICK, boards=16, budget=2e7, grown_steps=100)


@pytest.fixture(autouse=True, scope="module")
def plain_jax():
    """The benchmarks are written for JAX as it comes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def solution(sizes=(2, 1)):
    """A network that knows the game; units beyond the minimal ones say nothing. With
    twice the living neighbours and the cell itself, a cell lives at 5, 6 and 7."""
    net = jax.tree.map(jnp.zeros_like, Network(sizes, jr.key(0)))
    kernel = jnp.full((3, 3), 2.0).at[1, 1].set(1.0)
    first, second, last = net.layers
    where = lambda n: tuple(a for c in n.layers for a in (c.weight, c.bias))
    return eqx.tree_at(where, net, (
        first.weight.at[:2, 0].set(kernel),
        first.bias.at[:2, 0, 0].set(jnp.array([-4.0, -7.0])),
        second.weight.at[0, :2, 0, 0].set(jnp.array([1.0, -4.0])),
        second.bias,
        last.weight.at[:, 0].set(10.0),
        last.bias - 5.0,
    ))  # fmt: skip


def test_a_blinker_turns_and_wraps_around():
    board = jnp.zeros((5, 5)).at[2, :3].set(1.0)
    turned = jnp.zeros((5, 5)).at[1:4, 1].set(1.0)
    assert (step(board) == turned).all() and (step(turned) == board).all()
    edge = jnp.roll(board, 3, axis=0)
    assert (step(edge) == jnp.roll(turned, 3, axis=0)).all()


def test_one_board_has_every_neighbourhood_once():
    around = [np.roll(ALL, (i, j), (0, 1)).ravel() for i in range(3) for j in range(3)]
    assert len({*zip(*around, strict=True)}) == ALL.size == 512
    assert step(ALL).sum() == 56 + 28 + 56  # Three of eight; of living cells two too.


def test_the_minimal_network_can_know_the_game():
    net = solution()
    assert gn.trace(net, ALL).params() == 25
    assert knows(net) and not knows(Network((2, 1), jr.key(0)))
    almost = eqx.tree_at(lambda n: n.layers[2].bias, net, net.layers[2].bias - 6)
    assert not knows(almost)


def fit(net, policy, steps, rate=1e-4):
    boards = drawn(jr.key(1), 0.4, 16, 8)
    return gn.fit(net, loss, boards, optimizer=optax.adam(rate), policy=policy,
                  steps=steps, key=jr.key(2), batch_size=8, capacity=4)  # fmt: skip


def test_what_knows_the_game_rests():
    run_ = fit(solution(), Solved(every=2), 6)
    assert int(run_.state.memory) == 2
    again = fit(solution(), Solved(every=2), 2)
    assert eqx.tree_equal(run_.net, again.net)
    other = fit(Network((2, 1), jr.key(0)), Solved(every=2), 4)
    assert int(other.state.memory) == -1


def test_carving_ends_with_the_minimal_network():
    # Its `needs` are a property.
    carve = Carve(grows=gn.NoGrowth(2), every=2)  # pyright: ignore[reportCallIssue]
    policy = gn.chain(carve, Solved(most=3, every=2))
    run_ = fit(solution((4, 3)), policy, 16)
    sizes = [(t.sizes[FIRST], t.sizes[SECOND]) for t in run_.history.ticks]
    units = [7, *map(sum, sizes)]
    # One at a time, and the network rests from the turn on that sees the last one.
    assert units == [7, 6, 5, 4, 3, 3, 3, 3, 3] and sizes[-1] == (2, 1)
    assert knows(run_.net) and int(run_.state.memory[-1]) == 10


def test_a_small_benchmark_has_its_tables_and_figure_and_is_not_run_twice(tmp_path):
    run.run(SMALL, tmp_path, "static 1")
    run.run(SMALL, tmp_path, "random, plateau")
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    run.run(SMALL, tmp_path, "static 1")
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == times
    rows = report.gathered(tmp_path)
    assert set(rows) == {"static 1", "random, plateau"}
    row = rows["random, plateau"]
    assert np.shape(row["sizes"]) == (2, len(SMALL.seeds), 2)
    assert len(report.table(rows, 0).splitlines()) == 4 + len(rows)
    figure(rows, SMALL, tmp_path / "life.png")
    assert (tmp_path / "life.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no results of 'tuned SENN'"):
        run.load(tmp_path, "tuned SENN")


def test_operations_are_those_of_capacities():
    arm, s = ARMS["random, plateau"], SMALL
    path = np.array([[[2, 1], [4, 2], [6, 3], [6, 3]]])
    spent = np.diff(costs.spent(arm, s, path)[0], prepend=0)
    one = lambda sizes: costs.costs(arm, s, sizes)
    tick = lambda sizes: s.every * one(sizes)[0] + one(sizes)[1]
    grows = lambda sizes: 2 * one(sizes)[2] + one(sizes)[1]
    assert spent.tolist() == [
        tick((2, 2)), tick((2, 2)) + grows((4, 2)), tick((4, 2)) + grows((8, 4)),
        tick((8, 4)),
    ]  # fmt: skip
    # A step is three times a forward pass: 512 cells, 2 (18 + 2 + 1) operations each.
    step_ = costs.costs(Arm(1), s, (2, 1))[0]
    assert 3 * 512 * 42 < step_ < 3 * 512 * 42 * 2


def test_a_success_costs_what_failures_cost_too():
    row = {"flops": [[1.0, 2.0, 9.0, 9.0]], "solved": [[True, True, False, False]]}
    assert report.per_success(row, 0) == 21 / 2
    assert report.cheapest_success(row, 0) == (1 + 2 + 2 + 2) / 2
    assert report.cheapest_success(row, 0, [0, 0, 1, 3]) == (1 + 1 + 1 + 1) / 2
    assert report.cheapest_success(row, 0, [[2, 3], [0, 2]]).tolist() == [np.inf, 2]
    row |= {"rates": [0.1], "sizes": [[[2, 1]] * 4]}
    none = {**row, "solved": [[False] * 4]}
    lines = report.table({"static 1": row, "static 2": none}, 0).splitlines()
    assert lines[-2].endswith("| 1.00 (1.00, 1.00) |")
    assert lines[-1].endswith("| - | - | - | - |")
    low, high = wilson(2, 4)
    assert abs(low - 0.150) < 1e-3 and abs(high - 0.850) < 1e-3
