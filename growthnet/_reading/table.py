"""An anatomy as a readable table."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .anatomy import Anatomy
    from .widths import Width


def table(anatomy: "Anatomy") -> str:
    """The widths, then what can't change, then what to look at."""
    rows = [("width", "size", "growable", "gateable", "exact inits", "members")]
    for w in anatomy.all_widths:
        exact = [_exact(w, i) for i in ("zero_out", "clone")]
        members = ", ".join(
            f"{m.path}:{m.axis}{'*' if i in w.cover else ''}"
            for i, m in enumerate(w.members)
        )
        growable = "yes" if w.growable else "no"
        inits = ", ".join(filter(None, exact)) if w.growable else ""
        rows.append((w.name, str(w.size), growable, w.gateable, inits or "-", members))
    sizes = [max(len(r[i]) for r in rows) for i in range(5)]
    lines = [
        "  ".join(
            [*(c.ljust(n) for c, n in zip(r, sizes, strict=False)), r[5]]
        ).rstrip()
        for r in rows
    ]
    if not anatomy.all_widths:
        lines = ["no hidden width"]
    else:
        lines.append("(path:axis; * is the cover: what an exact growth zeroes)")
    appends = lambda name: "; `plan_rows` appends" if name in anatomy.heads else ""
    for w in anatomy.all_widths:
        lines += [f"{w.name} can't change: {r}{appends(w.name)}" for r in w.reasons]
        lines += [f"{w.name} doesn't grow exactly: {r}" for r in w.drift]
    lines += [
        f"fixed: {f.name} ({f.size}): {f.reason}{appends(f.name)}"
        for f in anatomy.fixed
    ]
    lines += [
        f"table: {t.name} ({t.size} rows); `plan_rows` appends"
        for t in anatomy.all_tables
    ]
    lines += [f"note: {text}" for text in anatomy.warnings]
    return "\n".join(lines)


def _exact(width: "Width", init: str) -> str:
    """The init as the table names it, or nothing if it isn't exact."""
    exactness, _ = width.exactness(init)
    if exactness == "not preserving":
        return ""
    name = f"{init} (x2, x3, ...)" if width.recipe(init).whole else init
    return name if exactness == "exact" else f"{name} (nearly)"
