"""What was fixed before any evaluation seed was run."""

import dataclasses
from typing import Any

import equinox as eqx

import growthnet as gn
from growthnet_policies import GradMax, SENN


PHASES, PER_PHASE, CLASSES = 5, 2, 10
WIDTHS = (8, 22, 36, 50, 64)
"""Hidden units by phase, of the networks that grow."""
STEPS, LOOK, BATCH = 300, 20, 64
"""Per phase; after `LOOK` steps on the new classes the network grows."""
KEPT, TRAIN, HELD_OUT = 30, 5_500, 500
"""Per class: in the small memory, to train on, to choose rates on."""

RATES, TUNING = (1e-4, 3e-4, 1e-3, 3e-3), (1_000, 1_001)
SEEDS = tuple(range(100, 108))


@dataclasses.dataclass(frozen=True)
class Arm:
    """- `rule`: how newborns are made; none: the network stays as it starts.
    - `widths`: hidden units by phase.
    - `kept`: examples of every old class that half of a batch is drawn from.
    - `rests`: old units keep their incoming weights.
    - `masked`: outputs of classes that haven't come yet don't count (a network that
        grows doesn't have them).
    - `local`: only the outputs of a phase's new classes count in training.
    - `anew`: Adam starts anew in every phase; `scratch`: so does the network, on all
        classes so far, with steps in proportion.
    """

    rule: str = ""
    widths: tuple[int, ...] = WIDTHS
    kept: int = 0
    rests: bool = False
    masked: bool = True
    local: bool = False
    anew: bool = False
    scratch: bool = False
    steps: int = STEPS

    def under(self, kept: int, local: bool) -> "Arm":
        return dataclasses.replace(self, kept=kept, local=local)


FINAL, FIRST = (WIDTHS[-1],) * PHASES, (WIDTHS[0],) * PHASES
EQUAL = 168
"""Steps of the final size that cost what `random` does (`flops.equal_steps`)."""

_KINDS = {
    "random": Arm("random"),
    "random, old units rest": Arm("random", rests=True),
    "random, new Adam": Arm("random", anew=True),
    "GradMax": Arm("GradMax"),
    "SENN": Arm("SENN"),
    "static": Arm(widths=FINAL),
    "static, equal FLOPs": Arm(widths=FINAL, steps=EQUAL),
    "static, 36 units": Arm(widths=(36,) * PHASES),
    "static, all outputs": Arm(widths=FINAL, masked=False),
    "small": Arm(widths=FIRST),
}
_FEW = ("random", "random, old units rest", "static", "static, equal FLOPs", "small")
_SHARED = ("random", "static", "static, equal FLOPs", "static, 36 units")
SETTINGS = {
    "no replay": (0, False, _FEW),
    "no replay, new outputs": (0, True, _FEW),
    "replay": (KEPT, False, tuple(_KINDS)),
    "all kept": (TRAIN, False, _SHARED),
}
ARMS = {
    f"{kind} / {setting}": _KINDS[kind].under(kept, local)
    for setting, (kept, local, kinds) in SETTINGS.items()
    for kind in kinds
} | {"retrained": Arm(widths=FINAL, anew=True, scratch=True)}


class Resting(gn.AbstractPolicy):
    """Decides nothing; the first `old` units keep what makes them."""

    old: Any
    every: int = eqx.field(static=True)
    needs: frozenset[str] = eqx.field(static=True, default=frozenset())
    optimizer: None = None

    def rates(self, memory: Any, anatomy: gn.Anatomy, open: Any) -> dict[str, Any]:
        del memory
        found = {}
        for name, mask in open.items():
            for member in anatomy.widths[name].members:
                if "consumer" not in member.roles:
                    rank = len(anatomy.leaves[member.leaf].shape)
                    learns = (mask.cumsum() > self.old).astype(float)
                    found[member.path] = learns.reshape(-1, *(1,) * (rank - 1))
        return found


def silent(evidence: Any, key: Any, add: int) -> gn.Decision:
    del key
    return gn.Decision({n: gn.Change(mask, add) for n, mask in evidence.open.items()})


def policy_of(rule: str, add: int, old: Any, every: int) -> gn.AbstractPolicy:
    """One setting for all arms. `SENN` takes so many of its best proposals, wanted or
    not, so that all of them have the same sizes."""
    rests = Resting(old=old, every=every)
    if not rule:
        return rests
    if rule == "random":
        grows = gn.as_policy(lambda e, k: silent(e, k, add), every=every)
    elif rule == "GradMax":
        grows = GradMax(add, every=every, batches=4)
    else:
        grows = SENN(add, every=every, ratio=1.0, gain=0.0, batches=4)
    return gn.chain(rests, grows)
