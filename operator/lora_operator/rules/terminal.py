"""A run that has ended never changes, whatever happens to its Job afterwards."""

from lora_operator.rules.base import Verdict
from lora_operator.state.decision import Draft, is_terminal
from lora_operator.state.views import Observed


def ended_stays_ended(seen: Observed, draft: Draft) -> Verdict:
    """A terminal status is final; one we can't read is not ours to change."""
    if not is_terminal(seen.run.status) and not seen.run.status_fault:
        return Verdict.CONTINUE
    draft.leave_untouched()
    return Verdict.SETTLED
