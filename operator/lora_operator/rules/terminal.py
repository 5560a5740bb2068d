"""A run that has ended never changes, whatever happens to its Job afterwards; it is cleaned up."""

from lora_operator.rules.base import Verdict
from lora_operator.rules.cleanup import clean_up
from lora_operator.state.decision import is_terminal
from lora_operator.state.draft import Draft
from lora_operator.state.views import Observed


def ended_stays_ended(seen: Observed, draft: Draft) -> Verdict:
    """A terminal status is final; one we can't read is not ours to change."""
    if seen.run.status_fault:
        draft.leave_untouched()
        return Verdict.SETTLED
    if not is_terminal(seen.run.status):
        return Verdict.CONTINUE
    if draft.phase == seen.run.status.phase:
        draft.acknowledge()
    clean_up(seen, draft)
    return Verdict.SETTLED
