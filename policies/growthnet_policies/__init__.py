"""Growth policies that come with growthnet, one method per file."""

from ._condensation import Condensation as Condensation
from ._explainable import (
    EXPLAINABLE as EXPLAINABLE,
    explainable as explainable,
    Explained as Explained,
)
from ._firefly import Firefly as Firefly
from ._gradmax import GradMax as GradMax
from ._nested_size import NestedSize as NestedSize
from ._net2net import Net2Net as Net2Net
from ._north import North as North
from ._pruning import Pruning as Pruning
from ._recycling import Recycling as Recycling
from ._residual_fitting import ResidualFitting as ResidualFitting
from ._scores import Score as Score, SCORES as SCORES
from ._senn import SENN as SENN
from ._size_weight import GradientSizeWeight as GradientSizeWeight
from ._splitting import Splitting as Splitting
from ._tiny import Tiny as Tiny
from ._variance_transfer import VarianceTransfer as VarianceTransfer
