"""A run that is being deleted is left alone: its children carry an ownerReference and follow it."""

from lora_operator.rules.base import Verdict
from lora_operator.state.draft import Draft
from lora_operator.state.views import Observed


def being_deleted_is_left_alone(seen: Observed, draft: Draft) -> Verdict:
    """Nothing is created for a run that goes away."""
    if not seen.run.deleting:
        return Verdict.CONTINUE
    draft.leave_untouched()
    return Verdict.SETTLED
