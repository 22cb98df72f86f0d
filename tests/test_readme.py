"""The README's code, as a reader would run it."""

import pathlib
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


README = pathlib.Path(__file__).parent.parent / "README.md"


def block(marker, **given):
    """The block of code with these words, run."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    scope: dict[str, Any] = {**given}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(next(c for c in code if marker in c), "README.md", "exec"), scope)
    return scope


def test_an_edit_and_what_trace_prints(capsys):
    scope = block("print(anatomy)")
    printed = capsys.readouterr().out
    shown = re.search(r"```text\n(width .*?)```", README.read_text(), re.S)
    assert shown and printed.startswith(shown[1])
    assert eqx.tree_equal(
        jax.tree.structure(scope["opt_state"]),
        jax.tree.structure(
            scope["optimizer"].init(eqx.filter(scope["wider"], eqx.is_inexact_array))
        ),
    )


def test_a_transformer_grows_in_every_direction():
    scope = block("class Model(eqx.Module)")
    tokens, model = scope["tokens"], scope["model"]
    for name in ("wider", "deeper"):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            off = jnp.abs(scope[name](tokens) - model(tokens)).max()
        assert float(off) < 1e-5, name
    assert len(scope["deeper"].blocks) == 3
    attention = scope["wider"].blocks[0].attention
    assert (attention.num_heads, attention.qk_size, attention.query_size) == (6, 8, 24)
    np.testing.assert_allclose(scope["wider"].blocks[1].norm.eps, 1e-5 * 16 / 24)


def test_whole_runs_are_programs():
    x = jax.random.normal(jax.random.key(0), (32, 4))
    scope = block("def one_run(", x_train=x, y_train=x.sum(-1, keepdims=True))
    sizes = [run.sizes["layers[0]"] for run in scope["grown"].runs()]
    assert sizes == [4, 4, 12, 12]
