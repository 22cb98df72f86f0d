"""Growth policies that come with growthnet, one method per file."""

from ._size_weight import GradientSizeWeight as GradientSizeWeight
