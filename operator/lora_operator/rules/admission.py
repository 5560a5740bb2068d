"""Whether the run can be started at all, by what its spec says alone."""

from lora_api.job import BUILT_IN_RECIPES
from lora_api.reasons import Reason
from lora_api.status import ConditionType, FailureStatus
from lora_operator.rules.base import Verdict
from lora_operator.state.draft import Draft
from lora_operator.state.text import quote
from lora_operator.state.views import Observed, Run


def spec_is_admitted(seen: Observed, draft: Draft) -> Verdict:
    """A readable spec with a known recipe is admitted; a run under way is not judged again."""
    failure = _fault(seen)
    if failure is not None:
        if _is_started(seen):
            # A newer or older operator started it; the Job has all it needs.
            return Verdict.CONTINUE
        draft.set(ConditionType.ADMITTED, "False", failure.reason, failure.message)
        draft.fail(failure)
        return Verdict.SETTLED
    draft.set(ConditionType.ADMITTED, "True", Reason.ACCEPTED)
    return Verdict.CONTINUE


def explain_spec_fault(run: Run) -> FailureStatus:
    """Why nothing can be made from the spec."""
    return FailureStatus(
        reason=Reason.INVALID_SPEC,
        message=(
            f"The spec can't be used: {quote(run.spec_fault)}. "
            "Create the run again with these fields corrected."
        ),
        retryable=False,
    )


def _is_started(seen: Observed) -> bool:
    return seen.job is not None or seen.run.status.job_name is not None


def _fault(seen: Observed) -> FailureStatus | None:
    spec = seen.run.spec
    if spec is None:
        return explain_spec_fault(seen.run)
    if spec.recipe not in BUILT_IN_RECIPES:
        return FailureStatus(
            reason=Reason.RECIPE_NOT_FOUND,
            message=(
                f"spec.recipe names {spec.recipe!r}, which this operator does not know. "
                f"Create the run again with one of: {', '.join(BUILT_IN_RECIPES)}."
            ),
            retryable=False,
        )
    return None
