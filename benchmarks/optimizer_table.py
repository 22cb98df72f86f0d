"""What happens to optimizer states when a network changes: one row per optimizer.

    python -m benchmarks.optimizer_table

The network has one hidden layer of 8 units. It grows to 12 units, shrinks to 5, or two
of its units are split into four whose consumers have unequal shares.
"""

import collections
import importlib.metadata

import jax
import optax

from growthnet._optimizer.optimizer import move_state  # noqa: PLC2701
from tests.optimizer_cases import Case, CASES, Change, CHANGES, CLONE, mlp, moved_mlp


EDITS = {"grow": CHANGES["grow"], "shrink": CHANGES["shrink"], "split": CLONE}
ACTIONS = ("kept", "moved", "scaled", "reset")

# Beyond the cases of the tests: states that no rule reaches.
ODDITIES = {
    "clip (by value), adamw": Case(lambda: optax.chain(optax.clip(1), optax.adamw(1))),
    "flatten(adam)": Case(lambda: optax.flatten(optax.adam(1))),
}


def moved(case: Case, change: Change) -> str:
    """How many leaves of the state met which fate, or that the edit was refused."""
    optimizer, small = case.make(), mlp(8)
    params, params2 = case.wrap(small), case.wrap(moved_mlp(small, change))
    edits = case.edits(change)
    state = jax.jit(optimizer.init)(params)
    try:
        _, report = move_state(optimizer, state, params, params2, edits)
    except ValueError:
        return "refused"
    counts = collections.Counter(row.action for row in report.rows)
    return " ".join(
        f"{counts[action]}" if counts[action] else "-" for action in ACTIONS
    )


def table() -> str:
    """The whole table, in Markdown."""
    versions = ", ".join(
        f"{n} {importlib.metadata.version(n)}" for n in ("jax", "optax")
    )
    head = ["optimizer", *(f"{name}: {' '.join(ACTIONS)}" for name in EDITS)]
    rows = [
        [name, *(moved(case, change) for change in EDITS.values())]
        for name, case in {**CASES, **ODDITIES}.items()
    ]
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"Leaves of the state, with {versions}:\n\n{text}"


if __name__ == "__main__":
    print(table())
