"""Networks that grow and shrink while they train."""

import importlib as _importlib
import importlib.metadata as _metadata

from ._anatomy import Anatomy as Anatomy
from ._around import (
    as_policy as as_policy,
    during as during,
    within_budget as within_budget,
)
from ._aux import Aux as Aux
from ._buckets import Buckets as Buckets
from ._candidates import Candidates as Candidates
from ._capacity import (
    close_units as close_units,
    compact as compact,
    open_units as open_units,
    reserve as reserve,
    Reserved as Reserved,
)
from ._chain import chain as chain
from ._checkpoints import (
    Checkpoints as Checkpoints,
    load as load,
    load_net as load_net,
    save as save,
)
from ._container import CheckpointError as CheckpointError
from ._depth import (
    deepen as deepen,
    plan_deepen as plan_deepen,
    plan_remove_block as plan_remove_block,
    remove_block as remove_block,
)
from ._depth_edit import DepthEdit as DepthEdit
from ._edit import Edit as Edit
from ._evidence import Evidence as Evidence
from ._fit import fit as fit
from ._gates import entry_masks as entry_masks, gate as gate
from ._grow import grow as grow, Grown as Grown
from ._grower import Grower as Grower
from ._growing import GrowerState as GrowerState, Growing as Growing
from ._history import GrowthEvent as GrowthEvent, History as History
from ._initials import register_initials as register_initials
from ._inits import Clone as Clone
from ._plan import plan as plan, resize as resize
from ._policy import (
    AbstractPolicy as AbstractPolicy,
    Change as Change,
    Decision as Decision,
    NoGrowth as NoGrowth,
    PerUnit as PerUnit,
)
from ._population import fit_population as fit_population
from ._primitives import register_primitive as register_primitive
from ._registry import (
    available_policies as available_policies,
    load_policy as load_policy,
)
from ._rows import append_rows as append_rows, plan_rows as plan_rows
from ._run import Run as Run
from ._sites import Site as Site, sites as sites
from ._statics import register_statics as register_statics
from ._trace import trace as trace
from ._unit_rows import unit_rows as unit_rows, with_unit_rows as with_unit_rows
from ._units import Consumer as Consumer, Producer as Producer, Units as Units
from ._widths import Width as Width


try:
    __version__ = _metadata.version("growthnet")
except _metadata.PackageNotFoundError:  # a bare checkout
    __version__ = "0.0.0"


def __getattr__(name: str):
    # `testing` needs Hypothesis, which a program that only trains shouldn't import.
    if name == "testing":
        return _importlib.import_module(".testing", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
