"""What each primitive says about axes, by family. `RULES` maps names to rules."""

from .._reader import Rule
from ._calls import CALLS
from ._collective import COLLECTIVES
from ._contract import CONTRACTIONS
from ._elementwise import ELEMENTWISE
from ._position import POSITIONS
from ._reduce import REDUCTIONS
from ._shape import SHAPES


RULES: dict[str, Rule] = {
    **ELEMENTWISE,
    **SHAPES,
    **CONTRACTIONS,
    **REDUCTIONS,
    **POSITIONS,
    **CALLS,
    **COLLECTIVES,
}
