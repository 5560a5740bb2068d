"""What the API server's refusal to create something means for the run.

A module of its own because claim and Job are refused for the same reasons: a foreign object or an
earlier run's in the way, a quota, admission, or missing rights.
"""

from lora_api.reasons import Reason
from lora_operator.rules.base import Verdict
from lora_operator.rules.patience import bear_creation
from lora_operator.state.draft import Draft
from lora_operator.state.text import quote
from lora_operator.state.views import Observed, Refusal, Refused

# Nobody tells us when a quota is raised or a foreign object is gone, so it is tried again; rarely,
# because each try is a write that may fail.
RETRY_SECONDS = 20
# What an earlier run left is gone within seconds, and asking costs little for so long.
PREDECESSOR_SECONDS = 2


def explain_refusal(refused: Refused) -> tuple[Reason, str]:
    """Reason and sentence for a condition."""
    if refused.kind is Refusal.NAME_TAKEN:
        return Reason.NAME_TAKEN, (
            f"{refused.what} exists and belongs to something else. Delete or rename it, or create "
            "the run under another name; it starts by itself once the name is free."
        )
    if refused.kind is Refusal.PREDECESSOR_TERMINATING:
        return Reason.PREDECESSOR_TERMINATING, (
            f"{refused.what} of an earlier run of this name is still being removed; the run starts "
            "by itself."
        )
    return Reason.CREATION_REFUSED, (
        f"The API server refuses {refused.what}: {quote(refused.message)}. The run starts by "
        "itself once this is allowed; if a value of spec is wrong, create the run again with "
        "another."
    )


def retry_seconds(refused: Refused) -> float:
    """How soon a creation that was refused is tried again."""
    is_passing = refused.kind is Refusal.PREDECESSOR_TERMINATING
    return PREDECESSOR_SECONDS if is_passing else RETRY_SECONDS


def wait_for_permission(seen: Observed, refused: Refused, draft: Draft) -> Verdict:
    """Wait with the refusal as the reason, and try again later, for as long as the spec allows."""
    reason, message = explain_refusal(refused)
    draft.wait(reason, message)
    draft.revisit_in(retry_seconds(refused))
    bear_creation(seen, draft)
    return Verdict.SETTLED
