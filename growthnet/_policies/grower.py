"""`Grower`: growth in your own training loop. `fit` is built on it.

What happens inside the program is in `turn` (decide, apply) and here (loss, update);
what happens on the host, where shapes change, is in `room`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from .._capacity.buckets import Buckets
from .._capacity.gates import entry_masks
from .._devices.everywhere import check_same_everywhere, spans_processes
from .._edits.statics import fitting
from .._evidence.evidence import check_needs, Evidence, GIVEN_IN_A_LOOP
from .._evidence.wide import wide_type, widened
from .._optimizer.first_state import initial_state
from .._optimizer.trainable import TrainableSpec
from .._paths import array_leaves, map_arrays, shared_leaves
from .._reading.anatomy import Anatomy
from .._reading.aux import own_leaves
from .capacities import Capacities
from .growing import (
    applied,
    as_arrays,
    cond_pair,
    GrowerState,
    Growing,
    in_place,
    inexact,
    on_device,
    own_rates,
    replaced,
    settled,
    stopped,
)
from .policy import AbstractPolicy, Decision, never_decides
from .room import begun, give_back, make_room, undecided
from .turn import apply, decide, fits


if TYPE_CHECKING:
    from .._evidence.look import Look


class Grower:
    """Grows a network in your own training loop; `fit` is built on it.

    **Arguments:**

    - `policy`: an `AbstractPolicy`.
    - `optimizer`: any `optax.GradientTransformation`, for the network.
    - `widths`: pattern or patterns of the widths that may change.
    - `trainable`: which leaves are trained: a tree of booleans shaped like the network,
        or a function of a leaf. By default every inexact array outside
        `eqx.nn.State`.
    - `buckets`: the ladder of capacities; by default of multiples of what a mesh asks
        for.
    - `capacity`: room to start with, which is never given back: a number for all
        widths, or by width or pattern. Beyond it the ladder goes on.

    !!! example

        ```python
        grower = gn.Grower(policy, optax.adam(1e-3))
        model, state = grower.init(model, gn.trace(model, x[0]), key=key)

        @eqx.filter_jit
        def train(model, state, x, y):
            objective = grower.loss(loss_fn, state)
            loss, grads = eqx.filter_value_and_grad(objective)(model, x, y)
            model, state = grower.step(model, grads, state)
            return model, state, loss

        for x, y in batches:
            model, state, loss = train(model, state, x, y)
            model, state = grower.resize(model, state)
        net = model.compact()
        ```
    """

    def __init__(
        self,
        policy: AbstractPolicy,
        optimizer: optax.GradientTransformation | optax.MultiSteps,
        *,
        widths: str | Iterable[str] = "*",
        trainable: Any = None,
        buckets: Buckets | None = None,
        capacity: int | Mapping[str, int] | None = None,
    ):
        if not isinstance(policy, AbstractPolicy):
            raise ValueError(
                f"policy={policy!r} isn't a policy; give an instance of a subclass of "
                "growthnet.AbstractPolicy (`growthnet.load_policy` finds installed "
                "ones by name)"
            )
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise ValueError(
                f"optimizer={optimizer!r} has no init and update; give an optax "
                "optimizer such as optax.adam(1e-3)"
            )
        self.policy = policy
        self.optimizer = optimizer
        self.widths = widths
        self.trainable = TrainableSpec(trainable)
        self.capacities = Capacities(buckets, capacity)
        self.look: Look | None = None  # `fit` knows the loss, and so more evidence.

    def init(
        self, net: Any, anatomy: Anatomy, *, key: Any, opt_state: Any = None
    ) -> tuple[Growing, Any]:
        """Makes room in the network and starts the optimizers.

        **Arguments:** the network, its anatomy (`trace`), and the key of the run;
            `opt_state`, if the optimizer is to go on: its state for `net`.

        **Returns:** `(growing, state)`.

        **Raises:** `ValueError` if no width matches, or none of them can be gated; for
            leaves at several places, and widths that a factory sets together; for a
            policy that needs what your own loop can't give; for `buckets` whose
            capacities the network's mesh doesn't divide; for a state of other leaves.
        """
        anatomy.check(net, "the network", whole=True, numbers=True)
        if self.look is None:
            check_needs(self.policy, GIVEN_IN_A_LOOP)
        managed = self.managed(anatomy)
        _check_apart(net, managed)
        self.capacities.mind_mesh(self.policy, net, managed)
        own = as_arrays(self.policy.init(managed, key=jr.fold_in(key, 0)))
        room = self.capacities.first(self.policy, managed)
        growing, state = self.begin(net, managed, own, key, room, opt_state)
        return settled(growing, undecided(self, growing, state))

    def begin(
        self,
        net: Any,
        managed: Anatomy,
        own: tuple[Any, Any],
        key: Any,
        capacities: Mapping[str, int],
        opt_state: Any = None,
    ) -> tuple[Growing, GrowerState]:
        """A run at its first step, at any capacities, but for the form of its
        decision; `own` is what the policy begins with."""
        growing, memory, edit = begun(net, own, self.policy, managed, capacities)
        params = self.trainable.of(growing.net)
        if opt_state is not None:
            old = self.trainable.of(net)
            opt_state = edit.transfer(self.optimizer, opt_state, old, params)
        state = GrowerState(
            initial_state(self.optimizer, params) if opt_state is None else opt_state,
            self._policy_optimizer(growing.trainable),
            memory,
            key,
            on_device(np.int32(0)),
            waiting=on_device(False),
            roomy=on_device(False),
            held=on_device(False),
            decision=Decision(),
        )
        return growing, state

    def _policy_optimizer(self, trainable: Any) -> Any:
        own = self.policy.optimizer
        return None if own is None else initial_state(own, inexact(trainable))

    def managed(self, anatomy: Anatomy) -> Anatomy:
        """The anatomy with just the widths that a run may change."""
        matched = anatomy.match(self.widths) if anatomy.widths else ()
        names = [n for n in matched if anatomy.widths[n].gateable != "no"]
        if not names and not never_decides(self.policy):
            why = "; ".join(f"{n}: {anatomy.widths[n].ungateable[0]}" for n in matched)
            raise ValueError(
                f"no width matching {self.widths!r} can grow in a run: "
                f"{why or 'the network has no hidden width'}"
            )
        return (
            anatomy.only(names)
            if names
            else dataclasses.replace(anatomy, all_widths=())
        )

    def loss(self, loss_fn: Callable[..., Any], state: GrowerState) -> Callable:
        """The objective of a growing network.

        **Returns:** a function `(growing, *args)` that calls `loss_fn` with the gated
        network and adds the policy's penalty to its (first) result.
        """
        key = jr.fold_in(jr.fold_in(state.key, 1), state.step)

        def objective(growing: Growing, *args: Any, **kwargs: Any) -> Any:
            result = loss_fn(growing.view(key=key, train=True), *args, **kwargs)
            policy = stopped(growing.policy)
            penalty = policy.penalty(
                growing.trainable, growing.net, growing.anatomy.params
            )
            if isinstance(result, tuple):
                return result[0] + penalty.astype(result[0].dtype), *result[1:]
            return result + penalty.astype(result.dtype)

        return objective

    def update(
        self, growing: Growing, grads: Growing, state: GrowerState
    ) -> tuple[Growing, GrowerState]:
        """One optimizer step of the network and of the policy's trainables. Closed
        units get no update, whatever the optimizer makes of them (decay, noise); others
        at the policy's rates."""
        params = self.trainable.of(growing.net)
        updates, opt_state = self.optimizer.update(
            self.trainable.of(grads.net), state.opt_state, params
        )
        masks = entry_masks(growing.anatomy, growing.open)
        arrays = array_leaves(updates)
        arrays |= {
            path: jnp.where(mask, arrays[path], jnp.zeros((), arrays[path].dtype))
            for path, mask in masks.items()
            if path in arrays
        }
        arrays |= {
            path: arrays[path] * rate.astype(arrays[path].dtype)
            for path, rate in own_rates(growing, state.memory).items()
            if path in arrays
        }
        updates = map_arrays(updates, arrays)
        net = applied(growing.net, updates)
        trainable, policy_opt_state = growing.trainable, state.policy_opt_state
        if self.policy.optimizer is not None:
            own, policy_opt_state = self.policy.optimizer.update(
                inexact(grads.trainable), policy_opt_state, inexact(trainable)
            )
            trainable = applied(trainable, own)
        growing = replaced(growing, net=net, trainable=trainable)
        state = replaced(
            state,
            opt_state=opt_state,
            policy_opt_state=policy_opt_state,
            step=state.step + 1,
        )
        return growing, state

    def step(
        self,
        growing: Growing,
        grads: Growing,
        state: GrowerState,
        *,
        loss: Any = None,
        valid_loss: Any = None,
    ) -> tuple[Growing, GrowerState]:
        """`update`, and every `policy.every` steps the policy's decision.

        **Arguments:** the growing network, the gradients of `loss(...)` with respect
        to it, the state; `loss` and `valid_loss` for policies that need them.

        **Returns:** `(growing, state)`. A decision that doesn't fit the capacity waits
        for `resize`.

        **Raises:** `ValueError` if the policy needs evidence that wasn't given.
        """
        given = {
            "loss": loss,
            "valid_loss": valid_loss,
            "gradients": grads.net,
        }
        there = [name for name, value in given.items() if value is not None]
        check_needs(self.policy, [*there, "network"])
        growing, state = self.update(growing, grads, state)
        if any(change.rewrite for change in state.decision.widths.values()):
            # A decision that was to rewrite weights which are no more.
            state = replaced(state, waiting=jnp.zeros((), bool))

        def speak(growing: Growing, state: GrowerState):
            found = {**given, "network": growing.net}
            wanted = {k: v for k, v in found.items() if k in self.policy.needs}
            wanted = widened(wanted, wide_type(growing.net))
            evidence = Evidence(
                state.step, growing.open, anatomy=growing.anatomy, **wanted
            )
            growing, state, _ = decide(growing, state, evidence)
            ready = state.waiting & fits(growing.open, state.decision)
            return cond_pair(ready, lambda g, s: apply(self, g, s), growing, state)

        due = (state.step % self.policy.every) == 0
        return in_place(*cond_pair(due, speak, growing, state))

    def with_untrained(self, growing: Growing, net: Any) -> Growing:
        """Takes over the leaves of `net` that aren't trained (running statistics).
        Closed units keep what they hold.

        **Raises:** `ValueError` for leaves that the network doesn't have.
        """
        trained = array_leaves(self.trainable.of(growing.net))
        old = array_leaves(growing.net)
        masks = entry_masks(growing.anatomy, growing.open)
        new = {
            path: jnp.where(masks[path], array, old[path]) if path in masks else array
            for path, array in own_leaves(growing.net, net).items()
            if path not in trained
        }
        return replaced(growing, net=map_arrays(growing.net, new))

    def resize(
        self, growing: Growing, state: GrowerState
    ) -> tuple[Growing, GrowerState]:
        """Makes room for a waiting decision and applies it, or gives back room that is
        no longer needed: new shapes, so the next call of your program compiles. Does
        nothing where nothing asks for it.

        **Raises:** `ValueError` if several processes have come to different sizes.
        """
        waiting, roomy = jax.device_get((state.waiting, state.roomy))
        if waiting:
            growing, state, asked_again = make_room(self, growing, state)
            if not asked_again:
                growing, state = _applied(self, growing, state)
        elif roomy:
            growing, state = give_back(self, growing, state)
        if (waiting or roomy) and spans_processes(growing.net):
            check_same_everywhere(growing)
        return growing, state


@eqx.filter_jit
def _applied(grower: Grower, growing: Growing, state: GrowerState) -> Any:
    return in_place(*apply(grower, growing, state))


def _check_apart(net: Any, managed: Anatomy) -> None:
    """A program trains every leaf and resizes every width for itself."""
    shared = shared_leaves(net)
    if shared:
        raise ValueError(
            f"{shared[0]!r} is one variable at several places of the network, which a "
            "program (jit, grad) would part into copies; use it from one place, as "
            "`embed.attend` does for a tied head, and fork random streams"
        )
    for name, width in managed.widths.items():
        if managed.source is not None:
            fit = fitting(managed.source.skeleton, managed, {name: width.size + 1})
            if len(fit) > 1:
                raise ValueError(
                    f"an argument of the network's factory sets {', '.join(fit)} "
                    "together, but a run changes every width for itself; give the "
                    "factory an argument for each"
                )
