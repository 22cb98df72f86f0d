"""The table of docs/zoo.md: every width of every model of the zoo, as `trace` sees it.

python -m benchmarks.zoo_table
"""

import re

import growthnet as gn
from growthnet.testing import Case
from tests.zoo import case_of, MODELS


def rows(name: str, case: Case) -> list[str]:
    """One line per width."""
    anatomy = gn.trace(case.net, *case.args, call=case.call)
    lines = []
    for width in anatomy.all_widths:
        exact = [
            f"{init} (x2, x3, ...)" if width.recipe(init).whole else init
            for init in ("zero_out", "clone")
            if width.growable and width.exactness(init)[0] == "exact"
        ]
        why = next(iter((*width.reasons, *width.drift)), "")
        # The line of code says nothing here.
        why = re.sub(r", at [^ ]+\.py:\d+ \([^)]*\)", "", why).replace("|", "/")
        cells = (
            name,
            f"`{width.name}`",
            str(width.size),
            "yes" if width.growable else "no",
            width.gateable,
            ", ".join(exact) or "-",
            why[:110],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    print("| model | width | size | growable | gateable | exact inits | why not |")
    print("|---|---|---|---|---|---|---|")
    for name in sorted(MODELS):
        try:
            lines = rows(name, case_of(name))
        except ImportError as error:
            lines = [f"| {name} | {error} | | | | | |"]
        print("\n".join(lines))


if __name__ == "__main__":
    main()
