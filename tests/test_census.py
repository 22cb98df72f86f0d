"""Every primitive of the installed JAX is understood, or said to be opaque.

When an upgrade of JAX brings a new one, the first test fails and names it: give it a
rule, or a reason in `OPAQUE`, or say below why no program that is read has it.
"""

import importlib
import pkgutil
import sys
import warnings
from types import ModuleType

import equinox as eqx
import equinox.internal  # noqa: F401 - so that its primitives exist
import jax
import jax.extend.core as jexc
import jax.numpy as jnp
import pytest

import growthnet as gn
from growthnet._reading.rules import OPAQUE, RULES


# Inside the bodies of Pallas kernels, which are not read: memory, semaphores, lanes.
KERNEL_LANGUAGES = ("jax._src.pallas.mosaic", "jax._src.pallas.triton")
IN_KERNELS = set(
    "broadcast_to delay einshape_lo get_global jaxpr_call masked_load masked_swap "
    "multiple_of num_programs pack_dtype program_id reciprocal semaphore_read "
    "semaphore_signal semaphore_wait unpack_dtype".split()
)
# A name that JAX keeps for others to import; nothing binds it.
NEVER_BOUND = {"custom_jvp_call_jaxpr"}

# Need other packages or hardware to be imported, and hold no primitive of their own.
UNIMPORTABLE = (
    "jax.collect_profile",
    "jax.experimental.array_serialization.pytree_serialization",
    "jax.experimental.jax2tf",
    "jax.tools",
    "jax._src.export.serialization",
    "jax._src.internal_test_util",
)


def modules_of(package: str) -> list[ModuleType]:
    """All modules of an installed package, imported as far as they can be."""
    root = importlib.import_module(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not found.name.startswith(UNIMPORTABLE):
                try:
                    importlib.import_module(found.name)
                except (ImportError, AttributeError):
                    continue
    return [m for n, m in sys.modules.items() if n.split(".")[0] == package]


def primitives(modules: list[ModuleType]) -> dict[str, str]:
    """The names of all primitives that modules hold, with one of the modules; one
    outside the kernel languages, where there is one."""
    found = [
        (module.__name__.startswith(KERNEL_LANGUAGES), module.__name__, value.name)
        for module in modules
        for value in list(vars(module).values())
        if isinstance(value, jexc.Primitive)
    ]
    return {name: module for _, module, name in sorted(found, reverse=True)}


def test_every_primitive_has_a_rule_or_a_reason():
    found = primitives(modules_of("jax"))
    assert len(found) > 300, "this is not all of JAX"
    missing = {
        name: module
        for name, module in found.items()
        if name not in RULES and not module.startswith(KERNEL_LANGUAGES)
    }
    unknown = sorted(missing.keys() - IN_KERNELS - NEVER_BOUND)
    assert not unknown, f"JAX {jax.__version__} has primitives without a rule: " + (
        ", ".join(f"{n} ({missing[n]})" for n in unknown)
    )


def test_what_is_said_to_be_elsewhere_exists_and_has_no_rule():
    found = primitives(modules_of("jax"))
    assert IN_KERNELS | NEVER_BOUND <= found.keys(), "some are gone; take them out"
    assert not (IN_KERNELS | NEVER_BOUND) & RULES.keys()


def test_equinox_primitives_have_a_rule_or_a_reason():
    found = primitives([m for n, m in sys.modules.items() if n.startswith("equinox")])
    assert found and not found.keys() - RULES.keys()


def test_opaque_ones_have_a_rule_that_gives_the_reason():
    assert OPAQUE.keys() <= RULES.keys()
    assert all(len(reason) > 20 for reason in OPAQUE.values())


def test_a_new_primitive_would_be_named():
    inside, outside = ModuleType(f"{KERNEL_LANGUAGES[0]}.core"), ModuleType("jax.fresh")
    for module in (outside, inside):
        vars(module)["fresh_p"] = jexc.Primitive("brand_new")
    assert primitives([outside, inside]) == {"brand_new": "jax.fresh"}


# --- what opaque primitives say


def opaque_network(function):
    net = [jnp.ones((4, 3)), jnp.ones((2, 4))]
    return net, lambda net, x: net[1] @ function(jnp.tanh(net[0] @ x))


def on_host(h):
    return jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct(h.shape, h.dtype), h)


def foreign(h):
    return jax.ffi.ffi_call("my_target", jax.ShapeDtypeStruct(h.shape, h.dtype))(h)


def referenced(h):
    ref = jax.new_ref(h)
    ref[...] = ref[...] + 1.0
    return ref[...]


REASONS = {
    on_host: "`pure_callback`: a function on the host that growthnet can't look into; "
    "register a rule with `growthnet.register_primitive`",
    foreign: "`ffi_call` (my_target): a kernel that growthnet can't look into",
    referenced: "it works on a mutable array",
}


@pytest.mark.parametrize("function", REASONS, ids=lambda f: f.__name__)
def test_opaque_primitives_say_why(function):
    net, call = opaque_network(function)
    anatomy = gn.trace(net, jnp.ones(3), call=call)
    reasons = anatomy.widths["[0]"].reasons
    assert any(REASONS[function] in r for r in reasons)
    assert any("test_census.py" in r for r in reasons)


def watched(h):
    jax.debug.print("{}", h)
    jax.debug.callback(lambda a: None, h)
    return eqx.internal.nontraceable(jax.lax.optimization_barrier((h, h.sum()))[0])


def test_those_that_only_look_are_harmless():
    net, call = opaque_network(watched)
    anatomy = gn.trace(net, jnp.ones(3), call=call)
    assert anatomy.widths["[0]"].growable
    assert anatomy.widths["[0]"].exactness("zero_out")[0] == "exact"
