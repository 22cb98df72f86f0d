"""`check_policy`: the conformance kit for policies, whoever wrote them."""

import dataclasses
import functools as ft
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from .._policies.policy import AbstractPolicy
from ._policy_checks import CHECKS, Skipped
from ._policy_runs import small_task, Task


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of one policy; call it. `name` is what `expected_failures` goes by."""

    name: str
    policy: AbstractPolicy
    task: Task = dataclasses.field(repr=False)

    def __call__(self) -> None:
        """**Raises:** `AssertionError` if the policy doesn't pass."""
        CHECKS[self.name](self.policy, self.task)


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What came of a check.

    - `status`: `"passed"`; `"failed"`; `"expected"`, which failed as was said; or
        `"skipped"`, which doesn't apply.
    - `text`: why it failed or was skipped.
    """

    name: str
    status: Literal["passed", "failed", "expected", "skipped"]
    text: str = ""


def policy_checks(
    policy: AbstractPolicy, *, task: Task | None = None
) -> Iterator[Check]:
    """The checks of a policy, the cheap ones first.

    **Arguments:**

    - `policy`: an instance.
    - `task`: what it is tried on; by default a perceptron with two hidden layers and a
        few points. Give one where your policy needs a network of another kind.
    """
    task = small_task() if task is None else task
    return (Check(name, policy, task) for name in CHECKS)


def check_policy(
    policy: AbstractPolicy,
    *,
    expected_failures: Mapping[str, str] | None = None,
    on_fail: Literal["raise", "collect"] = "raise",
    task: Task | None = None,
) -> list[CheckResult]:
    """Checks that a policy does what growthnet counts on. Half a minute or so.

    **Arguments:**

    - `policy`: an instance, such as `MyPolicy(rate=0.1)`. It decides every
        `policy.every` steps, and three decisions are tried: give one that decides soon.
    - `expected_failures`: by the name of a check, why it fails. One that passes all the
        same is a failure: the reason is gone.
    - `on_fail`: raise at the first failure, or go on and return all results.
    - `task`: see `policy_checks`.

    **Returns:** a result per check.

    **Raises:** `AssertionError` with what to mend; `ValueError` for an unknown name in
    `expected_failures`.

    !!! example

        ```python
        from growthnet.testing import check_policy


        def test_my_policy():
            check_policy(MyPolicy(every=5))
        ```
    """
    expected = _known(expected_failures)
    results = []
    for check in policy_checks(policy, task=task):
        result = outcome(check, expected.get(check.name))
        if result.status == "failed" and on_fail == "raise":
            raise AssertionError(result.text)
        results.append(result)
    return results


def _known(expected: Mapping[str, str] | None) -> Mapping[str, str]:
    unknown = sorted((expected or {}).keys() - CHECKS.keys())
    if unknown:
        known = ", ".join(CHECKS)
        raise ValueError(
            f"expected_failures names {unknown[0]!r}; the checks are {known}"
        )
    return expected or {}


def outcome(check: Check, expected: str | None = None) -> CheckResult:
    """Runs a check; `expected` is why it should fail."""
    name = type(check.policy).__name__
    try:
        check()
    except Skipped as reason:
        return CheckResult(check.name, "skipped", str(reason))
    except AssertionError as error:
        text = str(error)
    except Exception as error:
        text = (
            f"{name} doesn't pass the check {check.name!r}: it stopped with "
            f"{type(error).__name__}: {error}"
        )
        text = "\n".join([text, *getattr(error, "__notes__", ())])
    else:
        if expected is None:
            return CheckResult(check.name, "passed")
        text = (
            f"{name} passes the check {check.name!r}, which was expected to fail "
            f"({expected}); take it out of expected_failures"
        )
        return CheckResult(check.name, "failed", text)
    return CheckResult(check.name, "failed" if expected is None else "expected", text)


def parametrize_with_checks(
    policies: Sequence[AbstractPolicy],
    *,
    expected_failures: Mapping[str, str] | None = None,
    task: Task | None = None,
) -> Callable[[Any], Any]:
    """A decorator that makes one pytest case of every check of every policy.

    **Arguments:** `policies` are instances; the others are those of `check_policy`.

    !!! example

        ```python
        @parametrize_with_checks([MyPolicy(every=5), MyPolicy(every=5, add=2)])
        def test_policies(check):
            check()
        ```
    """
    import pytest  # Only who writes tests has it.

    expected = _known(expected_failures)
    cases = []
    for i, policy in enumerate(policies):
        for check in policy_checks(policy, task=task):
            name = f"{type(policy).__name__}{i if len(policies) > 1 else ''}"
            run = ft.partial(_held, check, expected.get(check.name))
            cases.append(pytest.param(run, id=f"{name}-{check.name}"))
    return pytest.mark.parametrize("check", cases)


def _held(check: Check, expected: str | None) -> None:
    import pytest

    result = outcome(check, expected)
    if result.status == "skipped":
        pytest.skip(result.text)
    if result.status == "expected":
        pytest.xfail(f"{expected}: {result.text}")
    if result.status == "failed":
        raise AssertionError(result.text)
