"""From results to a table."""

import numpy as np

from benchmarks.intervals import interval

from .arms import Rows, work
from .runs import EVERY, START
from .tasks import Task


def table(task: Task, rows: Rows) -> str:
    own = rows["residual"]
    lines = [
        "| arm | rate | units | steps | test loss | less residual "
        f"| {task.what} | GFLOPs |",
        "|---" * 8 + "|",
    ]
    for arm, row in rows.items():
        sizes = np.asarray(row["sizes"])
        spent = work(task, sizes, looks=arm in ("residual", "frozen")).mean() / 1e9
        less = np.asarray(row["test"]) - np.asarray(own["test"])
        cells = [
            arm, f"{row['rate']:g}", f"{sizes[:, -1].mean():.3g}",
            f"{sizes.shape[1] * EVERY:,}", interval(row["test"], ".3g"),
            "" if arm == "residual" else interval(less, "+.3g"),
            interval(row["score"], ".3g"), f"{spent:.3g}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    final = np.asarray(own["sizes"])[:, -1]
    spent = sum(row["cpu_seconds"] for row in rows.values())
    lines += ["", f"{np.mean(final > START):.2f} of runs grew; {spent:.0f} CPU seconds"]
    return "\n".join(lines)
