"""The examples run, and do what they say."""

import pathlib
import runpy

import jax


EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def test_a_policy_of_ones_own_prunes_in_ones_own_loop(capsys):
    scope = runpy.run_path(str(EXAMPLES / "own_policy.py"))
    with jax.numpy_dtype_promotion("standard"):
        net = scope["main"](steps=400)
    # 64 units, a tenth less (rounded down) four times.
    assert net.layers[0].out_features == net.width_size == 44
    assert "compact: 44 hidden units" in capsys.readouterr().out
