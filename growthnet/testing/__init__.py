"""Laws of growing and shrinking, as tests for your own networks.

Does your model survive a resize? One line tells:

```python
from growthnet.testing import check_network


def test_my_model_can_be_resized():
    print(check_network(MyModel(key=jax.random.key(0)), jnp.zeros(4)))
```

Every law is a plain function that raises `AssertionError`, so Hypothesis can drive it:

```python
import hypothesis
import hypothesis.strategies as st
from growthnet.testing import networks, preservation, resizes


@hypothesis.given(st.data())
def test_growth_preserves(data):
    case = data.draw(networks())
    preservation(case, data.draw(resizes(case, kind="grow")))
```

To see that a law notices a broken operation, exchange the operation:

```python
ops = dataclasses.replace(OPS, gate=my_gate)
shrink_is_silence(case, resize, ops=ops)
```

Needs the extra `growthnet[testing]`.
"""

from ._check import check_network as check_network, LAWS as LAWS, Report as Report
from ._families import FAMILIES as FAMILIES
from ._laws import (
    preservation as preservation,
    shrink_is_silence as shrink_is_silence,
    symmetry as symmetry,
)
from ._laws_capacity import (
    opening_is_resizing as opening_is_resizing,
    same_training as same_training,
)
from ._laws_optimizer import optimizer_follows as optimizer_follows
from ._laws_training import alive_newborns as alive_newborns
from ._laws_trees import round_trip as round_trip, truth as truth
from ._measure import tolerance as tolerance
from ._networks import (
    Case as Case,
    draw_inputs as draw_inputs,
    inputs_for as inputs_for,
    make_case as make_case,
    networks as networks,
)
from ._ops import OPS as OPS, Ops as Ops
from ._optimizers import (
    make_optimizer as make_optimizer,
    Optimizer as Optimizer,
    optimizers as optimizers,
)
from ._policy_kit import (
    Check as Check,
    check_policy as check_policy,
    CheckResult as CheckResult,
    parametrize_with_checks as parametrize_with_checks,
    policy_checks as policy_checks,
)
from ._policy_runs import small_task as small_task, Task as Task
from ._resizes import Resize as Resize, resizes as resizes
