"""Growth policies that come with growthnet, one method per file."""

from ._nested_size import NestedSize as NestedSize
from ._size_weight import GradientSizeWeight as GradientSizeWeight
