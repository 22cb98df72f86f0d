"""What each primitive says about axes, by family. `RULES` maps names to rules."""

from .._reader import Rule
from ._calls import CALLS
from ._collective import COLLECTIVES
from ._contract import CONTRACTIONS
from ._conv import CONVOLUTIONS
from ._elementwise import ELEMENTWISE
from ._equinox import EQUINOX
from ._index import INDEXING
from ._linalg import LINALG
from ._loops import LOOPS
from ._opaque import OPAQUE as OPAQUE, OPAQUES
from ._position import POSITIONS
from ._reduce import REDUCTIONS
from ._shape import SHAPES
from ._window import WINDOWS


RULES: dict[str, Rule] = {
    **OPAQUES,
    **ELEMENTWISE,
    **SHAPES,
    **CONTRACTIONS,
    **CONVOLUTIONS,
    **WINDOWS,
    **INDEXING,
    **REDUCTIONS,
    **POSITIONS,
    **LINALG,
    **CALLS,
    **LOOPS,
    **COLLECTIVES,
    **EQUINOX,
}
