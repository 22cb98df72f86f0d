"""What each primitive says about axes, by family. `RULES` maps names to rules."""

from ..reader import Rule
from .calls import CALLS
from .collective import COLLECTIVES
from .contract import CONTRACTIONS
from .conv import CONVOLUTIONS
from .elementwise import ELEMENTWISE
from .equinox import EQUINOX
from .index import INDEXING
from .linalg import LINALG
from .loops import LOOPS
from .opaque import OPAQUE as OPAQUE, OPAQUES
from .position import POSITIONS
from .reduce import REDUCTIONS
from .shape import SHAPES
from .window import WINDOWS


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
