"""Policies by name: entry points, so that anyone's package can bring some.

A distribution names its policies in `pyproject.toml`:

    [project.entry-points."growthnet.policies"]
    my_policy = "my_package:MyPolicy"

Nothing is imported until a policy is asked for, and a package that is broken is named
without taking the others along. An instance can be used without any of this.
"""

import importlib.metadata as metadata

from .policy import AbstractPolicy


GROUP = "growthnet.policies"


def available_policies() -> dict[str, metadata.EntryPoint]:
    """The names of all installed policies, and where they come from. Imports none.

    **Raises:** `ValueError` if two distributions give one name to different things.

    !!! example

        ```python
        for name, where in gn.available_policies().items():
            print(name, where.value)  # gradient_size_weight growthnet_policies:...
        ```
    """
    found: dict[str, metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ValueError(
                f"two policies are named {entry.name!r}: {_told(other)} and "
                f"{_told(entry)}; uninstall one of them, or import the class itself"
            )
    return dict(sorted(found.items()))


def _told(entry: metadata.EntryPoint) -> str:
    dist = f" of {entry.dist.name}" if entry.dist is not None else ""
    return f"{entry.value!r}{dist}"


def load_policy(name: str) -> type[AbstractPolicy]:
    """The class of an installed policy.

    **Raises:** `ValueError` for an unknown name, for something that can't be imported,
    and for something that isn't a policy.

    !!! example

        ```python
        policy = gn.load_policy("gradient_size_weight")(target=24)
        ```
    """
    known = available_policies()
    if name not in known:
        raise ValueError(
            f"unknown policy {name!r}; installed are {', '.join(known) or 'none'}. A "
            f"distribution brings policies by entry points of the group {GROUP!r} "
            "(install it again after adding one)"
        )
    entry = known[name]
    try:
        found = entry.load()
    except Exception as error:
        raise ValueError(
            f"policy {name!r} ({_told(entry)}) can't be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, AbstractPolicy)):
        raise ValueError(
            f"policy {name!r} ({_told(entry)}) is {found!r}, and no subclass of "
            "growthnet.AbstractPolicy"
        )
    return found
