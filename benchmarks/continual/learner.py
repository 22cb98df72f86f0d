"""Networks that learn classes in turn, as a user of growthnet writes it down.

When classes come, rows are appended to the head and Adam's state goes along
(`plan_rows`, `transfer`); then `grow` goes on from there, with the growth policy for
`LOOK` steps, and without for the rest of the phase.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import growthnet as gn

from .settings import (
    Arm,
    BATCH,
    CLASSES,
    LOOK,
    PER_PHASE,
    PHASES,
    policy_of,
)


HEAD = "layers[1]"
PIXELS = 784


class Lesson(eqx.Module):
    """What a run learns from in a phase. Images are numbers of rows, classes are
    numbered as they come.

    - `rows`, `names`: of the new classes; `by_class`: all classes, `[10, images]`.
    - `old`: how many classes came before; `kept`: images of each that may be replayed.
    - `first`, `outputs`: the outputs that count in training.
    - `resting`: how many units rest.
    """

    rows: Any
    names: Any
    by_class: Any
    old: Any
    kept: Any
    first: Any
    outputs: Any
    resting: Any
    rate: Any
    key: Any


def loss_of(images: Any, lesson: Lesson) -> Any:
    def replayed(batch: Any, key: Any) -> tuple[Any, Any]:
        rows, names = batch
        keys = jr.split(key)
        which = jr.randint(keys[0], rows.shape, 0, jnp.maximum(lesson.old, 1))
        at = jr.randint(keys[1], rows.shape, 0, jnp.maximum(lesson.kept, 1))
        again = (lesson.old * lesson.kept > 0) & (jnp.arange(len(rows)) < BATCH // 2)
        rows = jnp.where(again, lesson.by_class[which, at], rows)
        return rows, jnp.where(again, which, names)

    def loss(net: Any, batch: Any, key: Any) -> Any:
        rows, names = replayed(batch, key)
        scores = jax.vmap(net)(images[rows])
        scores = counting(scores, lesson.outputs, lesson.first)
        each = optax.softmax_cross_entropy_with_integer_labels
        return jnp.mean(each(scores, names))

    return loss


def counting(scores: Any, outputs: Any, first: Any = 0) -> Any:
    """The outputs that don't count say nothing."""
    numbers = jnp.arange(scores.shape[1])
    return jnp.where((numbers >= first) & (numbers < outputs), scores, -1e9)


def network(key: Any, width: int, outputs: int) -> eqx.nn.MLP:
    return eqx.nn.MLP(PIXELS, outputs, width, 1, activation=jnp.tanh, key=key)


@eqx.filter_jit
def trained(
    nets: Any, states: Any, lessons: Lesson, images: Any, rule: str, to: int, steps: int
) -> tuple[Any, Any]:
    """A stretch of a phase, of all runs: networks and states of Adam after it."""

    def one(net: Any, state: Any, lesson: Lesson) -> tuple[Any, Any]:
        add = to - net.layers[0].out_features
        grown = gn.grow(
            net, loss_of(images, lesson), (lesson.rows, lesson.names),
            optimizer=optax.adam(lesson.rate), opt_state=state, steps=steps,
            policy=policy_of(rule, add, lesson.resting, min(steps, LOOK)),
            key=lesson.key, batch_size=BATCH, capacity=to, overflow="hold",
        )  # fmt: skip
        return grown.growing.net, grown.state.opt_state

    return eqx.filter_vmap(one)(nets, states, lessons)


def with_classes(nets: Any, states: Any, rows: int, keys: Any) -> tuple[Any, Any]:
    """Networks and states of Adam (or `None`) when classes come: rows for the head."""
    example = jax.ShapeDtypeStruct((PIXELS,), jnp.float32)
    runs = [member((nets, states), i) for i in range(len(keys))]
    edit = gn.plan_rows(gn.trace(runs[0][0], example), {HEAD: rows})
    adam, news = optax.adam(0.0), []
    for (net, state), key in zip(runs, keys, strict=True):
        new = edit(net, key=key)
        if state is not None:
            before, after = (eqx.filter(n, eqx.is_inexact_array) for n in (net, new))
            state = edit.transfer(adam, state, before, after)
        news.append((new, state))
    return together(news)


def member(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i] if eqx.is_array(leaf) else leaf, tree)


def together(trees: list[Any]) -> Any:
    stack = lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0]
    return jax.tree.map(stack, *trees)


@eqx.filter_jit
def right(nets: Any, images: Any, by_class: Any, outputs: Any) -> Any:
    """Accuracy by run and class, of the classes given: `by_class` is `[runs, classes,
    images]`."""

    def one(net: Any, rows: Any) -> Any:
        scores = counting(jax.vmap(net)(images[rows.reshape(-1)]), outputs)
        told = jnp.argmax(scores, axis=1).reshape(rows.shape)
        return jnp.mean(told == jnp.arange(len(rows))[:, None], axis=1)

    return eqx.filter_vmap(one)(nets, by_class)


class Course:
    """Runs of an arm, side by side. `by_class` has numbers of images by class, `judged`
    the images to answer and their numbers; every run has an order of its own in which
    the classes come."""

    def __init__(self, arm: Arm, seeds: Any, rates: Any, images: Any, by_class: Any):
        self.arm, self.images = arm, images
        self.rates = jnp.asarray(rates, jnp.float32)
        self.keys = jax.vmap(jr.key)(jnp.asarray(seeds))
        self.order = jax.vmap(lambda k: jr.permutation(k, CLASSES))(self.split(0))
        mixed = jax.vmap(lambda key, rows: jr.permutation(key, rows, axis=1))
        self.by_class = mixed(self.split(1), jnp.asarray(by_class)[self.order])

    def split(self, number: int) -> Any:
        return jax.vmap(lambda key: jr.fold_in(key, number))(self.keys)

    def begun(self, phase: int, outputs: int) -> Any:
        width = self.arm.widths[phase]
        one = lambda key: network(key, width, outputs)
        return eqx.filter_vmap(one)(self.split(2 + phase))

    def lessons(self, phase: int, part: int) -> Lesson:
        arm, seen = self.arm, PER_PHASE * (phase + 1)
        old = 0 if arm.scratch else seen - PER_PHASE
        resting = arm.widths[phase - 1] if arm.rests and phase else 0

        def one(key: Any, rate: Any, by_class: Any) -> Lesson:
            outputs = seen if arm.masked else CLASSES
            names = jnp.repeat(jnp.arange(old, seen), by_class.shape[1])
            rows = by_class[old:seen].reshape(-1)
            first = old if arm.local else 0
            given = by_class, old, arm.kept, first, outputs, resting, rate
            return Lesson(rows, names, *given, jr.fold_in(key, part))

        return jax.vmap(one)(self.split(100 + phase), self.rates, self.by_class)

    def phase(self, phase: int, nets: Any, states: Any) -> tuple[Any, Any]:
        """Networks and states of Adam after a phase, from those before it."""
        arm, seen = self.arm, PER_PHASE * (phase + 1)
        if not phase or arm.scratch:
            nets = self.begun(phase, seen if arm.rule else CLASSES)
        elif arm.rule:
            nets, states = with_classes(nets, states, seen, self.split(10 + phase))
        states = None if arm.anew else states
        steps = arm.steps * (phase + 1 if arm.scratch else 1)
        if phase and arm.rule:
            given = self.lessons(phase, 0), self.images, arm.rule, arm.widths[phase]
            nets, states = trained(nets, states, *given, LOOK)
            steps -= LOOK
        given = self.lessons(phase, 1), self.images, "", arm.widths[phase], steps
        return trained(nets, states, *given)


def accuracies(
    arm: Arm, seeds: Any, rates: Any, images: Any, by_class: Any, judged: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Of runs, `[runs, phases, classes]` in the order in which these came (nan before),
    and their units, `[runs, phases]`."""
    course = Course(arm, seeds, rates, images, by_class)
    theirs = jnp.asarray(judged[1])[course.order]
    found = np.full((len(theirs), PHASES, CLASSES), np.nan)
    units = np.zeros((len(theirs), PHASES), int)
    nets, states = None, None
    for phase in range(PHASES):
        nets, states = course.phase(phase, nets, states)
        seen = PER_PHASE * (phase + 1)
        outputs = seen if arm.masked else CLASSES
        found[:, phase, :seen] = right(nets, judged[0], theirs[:, :seen], outputs)
        units[:, phase] = jnp.any(nets.layers[0].weight != 0, axis=2).sum(axis=1)
    return found, units
