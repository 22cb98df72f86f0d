"""Flax networks: NNX modules and Linen variables.

Imported on demand; needs the extra `growthnet[flax]`. NNX modules need no more than
`import growthnet`: they are traced, edited and trained as Equinox modules are.
"""

from ._libraries.linen import Linen as Linen, register_linen as _register_linen
from ._libraries.nnx import call as call, trainable as trainable, transfer as transfer
from ._libraries.nnx_layers import (
    register_kinds as _register_kinds,
    register_layers as _register_layers,
)


_register_kinds(call())
_register_layers()
_register_linen()
