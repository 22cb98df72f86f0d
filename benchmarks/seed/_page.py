"""Writes the tables of `docs/seed_paper.md` from stored results, between its marks."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from . import _figures
from ._stats import ratio
from ._stored import LAMBDA_BINS


DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "seed_paper.md"
Results = dict[str, Any]


def write(results: Path) -> None:
    """Figures and tables; the words of the page stay as they are."""
    found = {
        name: json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("law", "lambdas", "tasks", "controller")
    }
    figures = DOCS / "figures"
    _figures.law(found["law"], figures / "seed_law.png")
    _figures.lambdas(found["lambdas"], figures / "seed_lambdas.png")
    _figures.control(found["controller"]["alone"], figures / "seed_control.png")
    columns = [
        ("published", True, "published settings"),
        ("tuned", False, "no size input, tuned rate"),
    ]
    for name, title in (("tasks", "method_a"), ("controller", "method_b")):
        places = _places(found[name])
        _figures.arms(places, columns, figures / f"seed_{title}.png")
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        mark = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        pattern = f"{re.escape(mark[0])}.*?{re.escape(mark[1])}"
        body = "\n".join([mark[0], *table(found), mark[1]])
        text, count = re.subn(pattern, lambda _, b=body: b, text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{PAGE} has {count} places for the table {name!r}, not 1")
    PAGE.write_text(text, encoding="utf-8")


def opening(found: Results) -> Iterable[str]:
    yield (
        "| method, task | n | published settings: growing / static | ratio | "
        "no size input, tuned rate: growing / static | ratio |"
    )
    yield "|---|---|---|---|---|---|"
    for method, name in (("A", "tasks"), ("B", "controller")):
        for place, values in _places(found[name]).items():
            cells = [f"{method}, {place}", _count(values)]
            for column, fed in (("published", True), ("tuned", False)):
                rows = _rows(values, column, fed)
                means = (f"{rows[arm]['mean']:.2g}" for arm in ("growing", "static"))
                cells += [" / ".join(means), _ratio(rows["growing"]["ratio"])]
            yield _line(cells)


def arms(name: str) -> Callable[[Results], Iterable[str]]:
    """All arms of a method, in all four columns."""
    columns = [(c, fed) for c in ("published", "tuned") for fed in (True, False)]

    def table(found: Results) -> Iterable[str]:
        yield (
            "| task, arm | published | published, no size input | tuned | "
            "tuned, no size input |"
        )
        yield "|---|---|---|---|---|"
        for place, values in _places(found[name]).items():
            yield f"| **{place}** | | | | |"
            for arm in _rows(values, "tuned", True):
                cells = [arm]
                for column, fed in columns:
                    row = _rows(values, column, fed)[arm]
                    rate = f"{row['rate']:g}{' cos' * row['cosine']}"
                    rate = f" at {rate}" if column == "tuned" else ""
                    own = arm == "static"
                    cell = "" if own else f"; {_ratio(row['ratio'])}"
                    cells.append(f"{row['mean']:.2g}{rate}{cell}")
                yield _line(cells)

    return table


def best(found: Results) -> Iterable[str]:
    """The best arm that grows against the best that doesn't."""
    yield (
        "| task | size input | best growing arm | best static arm | growing / static | "
        "ratio |"
    )
    yield "|---|---|---|---|---|---|"
    for name in ("tasks", "controller"):
        for place, values in _places(found[name]).items():
            for row in values.get("best", []):
                names = [_at(row[kind]) for kind in ("growing", "static")]
                means = f"{row['means']['growing']:.2g} / {row['means']['static']:.2g}"
                fed = "yes" if row["size_input"] else "no"
                yield _line([place, fed, *names, means, _ratio(row["ratio"])])


def lambdas(found: Results) -> Iterable[str]:
    result = found["lambdas"]
    exponents = np.log10(result["lambdas"])
    yield (
        "| log10 lambda | total, authors' | total, ours | data only, authors' | "
        "data only, ours | no size input: total | data only |"
    )
    yield "|---|---|---|---|---|---|---|"
    for bin in LAMBDA_BINS:
        last = bin.high == LAMBDA_BINS[-1].high
        inside = (exponents >= bin.low - 1e-6) & (
            exponents < bin.high - 1e-6 + last * 1e-3
        )
        cells = [f"{bin.low:.2f}..{bin.high:.2f}"]
        for name in ("as published", "no size input"):
            parts = {
                (arm, part): np.asarray(result[name][arm][part])[inside].reshape(-1, 1)
                for arm in ("growing", "static")
                for part in ("data", "size loss")
            }
            grown, static = parts["growing", "data"], parts["static", "data"]
            total = ratio(
                grown + parts["growing", "size loss"],
                static + parts["static", "size loss"],
            )
            ours = [_ratio(total), _ratio(ratio(grown, static))]
            if name == "as published":
                cells += [f"{bin.total:g}", ours[0], f"{bin.data:g}", ours[1]]
            else:
                cells += ours
        yield _line(cells)


def law(found: Results) -> Iterable[str]:
    result = found["law"]
    epochs = result["epochs"]
    shown = [i for i in range(len(epochs)) if (i + 1) in (10, 25, 50, 100)]
    heads = [f"epoch {epochs[i]:,}" for i in shown]
    yield _line(["lambda", *heads])
    yield "|---" * (len(shown) + 1) + "|"
    for row in result["rows"]:
        cells = [f"{row['mean'][i]:.2f} ({row['law'][i]:.2f})" for i in shown]
        yield _line([f"{row['lambda']:g}", *cells])


def cost(found: Results) -> Iterable[str]:
    yield "| command | wall seconds |"
    yield "|---|---|"
    for values in found.values():
        yield f"| `{values['made']['command']}` | {values['made']['seconds']:,} |"


TABLES: dict[str, Callable[[Results], Iterable[str]]] = {
    "opening": opening,
    "best": best,
    "law": law,
    "lambdas": lambdas,
    "method A": arms("tasks"),
    "method B": arms("controller"),
    "cost": cost,
}


def _places(result: Results) -> Results:
    """The parts of a result that went through the protocol."""
    return {k: v for k, v in result.items() if isinstance(v, dict) and "rows" in v}


def _rows(values: Results, column: str, size_input: bool) -> Results:
    return {
        row["arm"]: row
        for row in values["rows"]
        if row["column"] == column and row["size_input"] == size_input
    }


def _at(job: Results) -> str:
    return f"{job['arm']} at {job['rate']:g}{' cos' * job['cosine']}"


def _count(values: Results) -> str:
    if "seeds" in values:
        return str(values["seeds"][1])
    draws, trials = values["draws x trials"]["test"]
    return str(draws) if trials == 1 else f"{draws} x {trials}"


def _ratio(values: list[float] | tuple[float, ...]) -> str:
    """In bold where the whole interval is on one side of 1."""
    middle, low, high = values
    text = f"{_short(middle)} [{_short(low)}, {_short(high)}]"
    return f"**{text}**" if low > 1 or high < 1 else text


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.{2 if value < 10 else 0}f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
