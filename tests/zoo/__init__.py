"""A zoo of small models, as people write them, with what a trace has to find in each.

One file per family. A model is a function of its sizes, so each has a twin in which
sizes coincide that otherwise differ: nothing may be told apart by size alone.
"""

from . import (
    attention as attention,
    conv as conv,
    dense as dense,
    flax_models as flax_models,
    language as language,
    moe as moe,
    norm as norm,
    raw as raw,
    recurrent as recurrent,
)
from ._model import case_of as case_of, Model as Model, MODELS as MODELS
