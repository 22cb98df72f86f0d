"""Networks that grow and shrink while they train."""

import importlib as _importlib
import importlib.metadata as _metadata

from ._capacity.buckets import Buckets as Buckets
from ._capacity.capacity import (
    close_units as close_units,
    compact as compact,
    open_units as open_units,
    reserve as reserve,
    Reserved as Reserved,
)
from ._capacity.gates import entry_masks as entry_masks, gate as gate
from ._checkpoints.checkpoints import (
    Checkpoints as Checkpoints,
    load as load,
    load_net as load_net,
    save as save,
)
from ._checkpoints.container import CheckpointError as CheckpointError
from ._depth.depth import (
    deepen as deepen,
    plan_deepen as plan_deepen,
    plan_remove_block as plan_remove_block,
    remove_block as remove_block,
)
from ._depth.depth_edit import DepthEdit as DepthEdit
from ._depth.sites import Site as Site, sites as sites
from ._devices.everywhere import check_same_everywhere as check_same_everywhere
from ._edits.edit import Edit as Edit
from ._edits.initials import register_initials as register_initials
from ._edits.inits import Clone as Clone
from ._edits.plan import plan as plan, resize as resize
from ._edits.rows import append_rows as append_rows, plan_rows as plan_rows
from ._edits.statics import register_statics as register_statics
from ._evidence.candidates import Candidates as Candidates
from ._evidence.evidence import Evidence as Evidence
from ._evidence.unit_rows import (
    unit_rows as unit_rows,
    with_unit_rows as with_unit_rows,
)
from ._evidence.units import Consumer as Consumer, Producer as Producer, Units as Units
from ._history.history import GrowthEvent as GrowthEvent, History as History
from ._optimizer.newborns import (
    debias_by_age as debias_by_age,
    scale_by_age as scale_by_age,
    scale_by_stage_norm as scale_by_stage_norm,
)
from ._policies.around import (
    as_policy as as_policy,
    during as during,
    within_budget as within_budget,
)
from ._policies.chain import chain as chain
from ._policies.conditions import (
    if_it_pays as if_it_pays,
    on_plateau as on_plateau,
    provided as provided,
)
from ._policies.fading import fading as fading
from ._policies.grower import Grower as Grower
from ._policies.growing import GrowerState as GrowerState, Growing as Growing
from ._policies.in_widths import in_widths as in_widths
from ._policies.policy import (
    AbstractPolicy as AbstractPolicy,
    Change as Change,
    Decision as Decision,
    NoGrowth as NoGrowth,
    PerUnit as PerUnit,
)
from ._policies.registry import (
    available_policies as available_policies,
    load_policy as load_policy,
)
from ._reading.anatomy import Anatomy as Anatomy
from ._reading.aux import Aux as Aux
from ._reading.primitives import register_primitive as register_primitive
from ._reading.trace import trace as trace
from ._reading.widths import Width as Width
from ._runs.fit import fit as fit
from ._runs.grow import grow as grow, Grown as Grown
from ._runs.population import fit_population as fit_population
from ._runs.run import Run as Run


try:
    __version__ = _metadata.version("growthnet")
except _metadata.PackageNotFoundError:  # a bare checkout
    __version__ = "0.0.0"


def __getattr__(name: str):
    # `testing` needs Hypothesis, which a program that only trains shouldn't import.
    if name == "testing":
        return _importlib.import_module(".testing", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
