"""Candidates: what units that don't exist would do is what they do once they do."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import growthnet as gn
from growthnet._evidence import candidates as _candidates
from growthnet._evidence.look import Look, Past
from growthnet._policies.grower import Grower
from growthnet.testing import make_case

from .helpers import lenient


BORN = 3
FAMILIES = (
    "mlp", "arrays", "pairs", "sequential", "residual", "concatenating", "fused",
    "two_by_two", "autoencoder", "factored", "normalised", "experts", "counting",
)  # fmt: skip


class Asking(gn.NoGrowth):
    needs: frozenset[str] = eqx.field(
        static=True, default=frozenset({"candidates", "evaluate", "network"})
    )

    def step(self, trainable, memory, evidence, *, key):
        return gn.Decision(), trainable, memory, {}


def asked(case: Any, name: str, needs: set[str], question: Callable[..., Any]) -> Any:
    """The answer to a question about the evidence on a network with room for more."""
    call = case.call or (lambda net, *args: net(*args))

    def loss(net, args, key):
        del key
        leaves = jax.tree.leaves(call(net, *args))
        return sum(jnp.sum(jnp.sin(2 * leaf.astype(float))) for leaf in leaves)

    anatomy = gn.trace(case.net, *case.args, call=case.call)
    policy = Asking(needs=frozenset(needs))
    room = {name: anatomy.widths[name].size + BORN + 1}
    grower = Grower(policy, optax.sgd(0.1), widths=[name], capacity=room)
    grower.look = look = Look(loss, case.args)
    growing, state = grower.init(case.net, anatomy, key=jr.key(0))

    def answer(growing, state):
        past = Past(lambda step: case.args, state.step + 1, jnp.ones((), jnp.int32))
        none = jnp.zeros(())
        return question(look(grower, growing, state, past, none, none))

    return eqx.filter_jit(answer)(growing, state)


def some_rows(evidence: gn.Evidence, name: str) -> dict[str, Any]:
    drawn = evidence.candidates[name].drawn(BORN, jr.key(3))
    noise = lambda rows: 0.5 * jr.normal(jr.key(4), rows.shape, rows.dtype)
    return {path: rows + noise(rows) for path, rows in drawn.items()}


def _when_moved(evidence: gn.Evidence, name: str, rows: Any) -> tuple[Any, Any]:
    """The same where the present units take other rows as well."""
    candidates = evidence.candidates[name]
    arrays = evidence.anatomy.check(evidence.network, "the network")
    real = {p: a for p, a in arrays.items() if jnp.issubdtype(a.dtype, jnp.inexact)}
    moved = {p: 0.9 * r for p, r in candidates.rows(real).items()}
    born = gn.Decision({name: candidates.change(rows, moved=moved)})
    return candidates.loss(rows, moved), evidence.evaluate(born)


def foretold(evidence: gn.Evidence, name: str) -> tuple[Any, ...]:
    """The loss with newborns as it is said before, as it is when they are there, and
    without them."""
    candidates = evidence.candidates[name]
    rows = some_rows(evidence, name)
    born = gn.Decision({name: candidates.change(rows)})
    two = gn.Decision({name: candidates.change(rows, jnp.asarray(2))})
    first_two = {path: r[:2] for path, r in rows.items()}
    return (
        (candidates.loss(rows), evidence.evaluate(born)),
        (candidates.loss(first_two), evidence.evaluate(two)),
        evidence.evaluate(gn.Decision()),
        _when_moved(evidence, name, rows),
    )


def drawn_case(data: Any, kinds: tuple[str, ...]) -> tuple[Any, str]:
    """A network, and one of its widths that can be part of a run."""
    kind = data.draw(st.sampled_from(kinds))
    seed = data.draw(st.integers(0, 9))
    case = make_case(kind, seed=seed, dtype="float64")
    widths = gn.trace(case.net, *case.args, call=case.call).widths
    names = [n for n, width in widths.items() if width.gateable != "no"]
    return case, data.draw(st.sampled_from(names))


@hypothesis.given(st.data())
@hypothesis.settings(deadline=None, max_examples=4)
def test_the_loss_with_candidates_is_the_loss_once_they_are_born(data):
    with jax.enable_x64(True):
        case, name = drawn_case(data, FAMILIES)
        needs = {"candidates", "evaluate", "network"}
        *every, _, moved = asked(case, name, needs, lambda e: foretold(e, name))
        for said, true in (*every, moved):
            assert np.allclose(said, true, rtol=1e-9, atol=1e-12)


def slopes(evidence: gn.Evidence, name: str) -> tuple[Any, Any]:
    """How the loss moves as newborns are turned on: by the loss, and by activations and
    cotangents."""
    candidates, units = evidence.candidates[name], evidence.units[name]
    rows, read = some_rows(evidence, name), {c.path for c in units.consumers}
    quiet = lambda alpha: {p: r * alpha if p in read else r for p, r in rows.items()}
    slope = jax.grad(lambda alpha: candidates.loss(quiet(alpha)))(0.0)
    shares = [c.cotangents @ rows[c.path].T for c in units.consumers]
    return slope, jnp.sum(candidates.activations(rows) * sum(shares))


@hypothesis.given(st.data())
@hypothesis.settings(deadline=None, max_examples=4)
def test_activations_of_candidates_are_those_that_consumers_would_read(data):
    kinds = ("mlp", "arrays", "sequential", "fused", "two_by_two", "factored")
    with jax.enable_x64(True):
        case, name = drawn_case(data, kinds)
        needs = {"candidates", "output_cotangents"}
        by_loss, by_hand = asked(case, name, needs, lambda e: slopes(e, name))
        assert np.allclose(by_loss, by_hand, rtol=1e-6, atol=1e-9)


def shifted(self, leaf, rows, at):
    """A mutant: what is written to a unit is its neighbour's."""
    return PLACED(self, leaf, jnp.roll(rows, 1, axis=0), at)


PLACED = _candidates.Place.write


def test_rows_in_the_wrong_slots_are_noticed(monkeypatch):
    case = make_case("arrays", seed=0)
    ask = lambda e: foretold(e, "w1")
    needs = {"candidates", "evaluate", "network"}
    (said, true), _, before, _ = asked(case, "w1", needs, ask)
    assert np.isclose(said, true, rtol=1e-5) and not np.isclose(said, before, rtol=1e-2)
    monkeypatch.setattr(_candidates.Place, "write", shifted)
    (said, true), *_ = asked(case, "w1", needs, ask)
    assert not np.isclose(said, true, rtol=1e-3)


def test_newborns_are_drawn_as_the_library_draws():
    net = eqx.nn.MLP(4, 2, 5, 1, key=jr.key(0))
    case = dataclasses.replace(make_case("mlp"), net=net, args=(jnp.ones(4),))
    ask = lambda e: e.candidates["layers[0]"].drawn(200, jr.key(1))
    rows = asked(case, "layers[0]", {"candidates"}, ask)
    incoming = np.asarray(rows["layers[0].weight"])
    assert incoming.shape == (200, 4) and np.abs(incoming).max() <= 0.5
    assert np.abs(incoming).mean() == pytest.approx(0.25, rel=0.1)
    assert rows["layers[1].weight"].shape == (200, 2)
    assert (np.asarray(rows["layers[1].weight"]) == 0).all()


def test_what_are_not_candidates_is_refused():
    case = make_case("arrays", seed=0)
    for change, message in (
        (
            lambda rows: {**rows, "w9": rows["w1"]},
            r"leaf path they .*w1 \[count, 3\]",
        ),
        (lambda rows: {**rows, "w1": rows["w1"][:, :2]}, r"'w1': \(3, 2\)"),
        (lambda rows: {**rows, "w1": rows["w1"][:2]}, "candidates of 'w1' are"),
        (lambda rows: {"w1": rows["w1"]}, r"candidates of 'w1' are .* w2 \[count"),
    ):
        ask = lambda e, f=change: e.candidates["w1"].loss(f(some_rows(e, "w1")))
        with pytest.raises(ValueError, match=message):
            asked(case, "w1", {"candidates"}, ask)
    recycled = make_case("recycled", seed=0)
    with pytest.raises(ValueError, match="'again.weight' has its units along two axes"):
        asked(recycled, "stem", {"candidates"}, lambda e: some_rows(e, "stem"))


# --- other batches


X = jr.normal(jr.key(0), (40, 4))
Y = jnp.sin(X.sum(-1, keepdims=True))


def loss(net, batch, key):
    del key
    return jnp.mean((jax.vmap(net)(batch[0]) - batch[1]) ** 2)


class Back(gn.NoGrowth):
    """Looks at the batches behind and at the data it is validated on."""

    every: int = eqx.field(static=True, default=3)
    needs: frozenset[str] = eqx.field(
        static=True,
        default=frozenset({"on", "batches", "valid", "evaluate", "gradients"}),
    )

    def init(self, anatomy, *, key):
        del anatomy, key
        return None, {
            "x": jnp.zeros((2, 8, 4)),
            "losses": jnp.zeros(3),
            "slope": jnp.zeros(2),
        }

    def step(self, trainable, memory, evidence, *, key):
        del key, memory
        last = evidence.batches(2)
        value = lambda batch: evidence.on(batch).evaluate(gn.Decision())
        slope = lambda e: jnp.sum(e.gradients.layers[1].bias)
        one = jax.tree.map(lambda a: a[1], last)
        seen = {
            "x": last[0],
            "losses": jnp.append(jax.vmap(value)(last), value(evidence.valid)),
            "slope": jnp.stack([slope(evidence), slope(evidence.on(one))]),
        }
        return gn.Decision(), trainable, seen, {}


def test_evidence_on_other_batches():
    net = eqx.nn.MLP(4, 1, 4, 1, activation=jnp.tanh, key=jr.key(0))
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]
    valid = (X[24:37], Y[24:37])
    seen = gn.fit(
        net, loss, batches, valid=valid,
        optimizer=optax.sgd(0.0), policy=Back(), steps=3, key=jr.key(1),
    ).state.memory  # fmt: skip
    assert np.array_equal(seen["x"], np.stack([batches[2][0], batches[1][0]]))
    two = [batches[2], batches[1]]
    by_hand = [loss(net, batch, None) for batch in (*two, valid)]
    assert np.allclose(seen["losses"], by_hand, atol=1e-6)
    grads = [eqx.filter_grad(loss)(net, b, None).layers[1].bias.sum() for b in two]
    assert np.allclose(seen["slope"], grads, atol=1e-6)


def test_what_only_a_program_has_is_refused():
    class OnHost(Back):
        on_host = True

    run = lambda policy, **options: gn.fit(
        eqx.nn.MLP(4, 1, 4, 1, key=jr.key(0)), loss, (X, Y),
        optimizer=optax.sgd(0.0), policy=policy, steps=3, key=jr.key(1), **options,
    )  # fmt: skip
    with pytest.raises(ValueError, match="needs valid .*: pass `valid=` to fit"):
        run(Back())
    with pytest.raises(ValueError, match=r"needs batches .*; on .* `on_host = True`"):
        run(OnHost(), valid=(X, Y))

    class Greedy(Back):
        def step(self, trainable, memory, evidence, *, key):
            evidence.batches(4)
            return gn.Decision(), trainable, memory, {}

    with pytest.raises(ValueError, match="asked for 4 batches; .* from 1 to"):
        run(Greedy(), valid=(X, Y))
    with pytest.raises(ValueError, match="for 2 batches, but every .* `batch_size`"):
        run(Back(), valid=(X, Y))


# --- the policy's rates


class Slow(gn.NoGrowth):
    """Half the rate for the first unit; the output layer rests."""

    every: int = eqx.field(static=True, default=4)

    def rates(self, memory, anatomy, open):
        del memory
        first = {n: jnp.arange(mask.size) == 0 for n, mask in open.items()}
        marked = gn.entry_masks(anatomy, first)["layers[0].weight"]
        return {
            "layers[0].weight": jnp.where(marked, 0.5, 1.0),
            "layers[1].weight": jnp.zeros(()),
        }

    def step(self, trainable, memory, evidence, *, key):
        return gn.Decision(), trainable, memory, {}


def test_rates_of_entries():
    net = eqx.nn.MLP(4, 1, 4, 1, activation=jnp.tanh, key=jr.key(0))
    run = lambda policy: gn.fit(
        net, loss, (X, Y), optimizer=lenient(optax.adamw(1e-2, weight_decay=0.1)),
        policy=policy, steps=1, key=jr.key(1),
    ).net  # fmt: skip
    plain, slow = run(gn.NoGrowth()), run(Slow())
    moved = lambda new, i: np.asarray(new.layers[i].weight - net.layers[i].weight)
    factors = np.array([0.5, 1, 1, 1])[:, None]
    assert np.allclose(moved(slow, 0), factors * moved(plain, 0), atol=1e-6)
    assert (moved(slow, 1) == 0).all() and (moved(plain, 1) != 0).all()
    assert eqx.tree_equal(slow.layers[0].bias, plain.layers[0].bias)


@pytest.mark.parametrize("path, shape", [("layers[0].weight", (3,)), ("nothing", ())])
def test_rates_that_fit_no_leaf_are_refused(path, shape):
    class Wrong(Slow):
        def rates(self, memory, anatomy, open):
            return {path: jnp.ones(shape)}

    net = eqx.nn.MLP(4, 1, 4, 1, key=jr.key(0))
    with pytest.raises(ValueError, match=r"Wrong.rates: '.*' has shape"):
        gn.fit(
            net, loss, (X, Y), optimizer=optax.sgd(0.1), policy=Wrong(), steps=4,
            key=jr.key(1),
        )  # fmt: skip
