"""How long a wait is borne: each kind has a limit of its own in spec.limits.

A module of its own because every wait ends in the same way: with the reason of the wait, and the
name of the limit that was reached.
"""

from datetime import datetime

from lora_api.status import ConditionType, FailureStatus
from lora_operator.rules.giving_up import give_up
from lora_operator.state.draft import Draft
from lora_operator.state.text import clip
from lora_operator.state.views import Observed


def bear_creation(seen: Observed, draft: Draft) -> None:
    """Claim, Job or pod may be refused only so long; the wait began with the phase."""
    if seen.run.spec is not None:
        bear(
            seen,
            draft,
            since=draft.pending_since,
            seconds=seen.run.spec.limits.creation_timeout_seconds,
            field="creationTimeoutSeconds",
        )


def is_borne_no_more(seen: Observed, draft: Draft, *, since: datetime | None) -> bool:
    """Whether a Job without a GPU was refused or held back for too long; else look again then.

    Args:
        seen: What there is of the run.
        draft: Receives the wish to look again.
        since: When the wait began; None for just now.
    """
    spec = seen.run.spec
    if spec is None:
        return False
    waited = (draft.now - since).total_seconds() if since is not None else 0
    left = spec.limits.creation_timeout_seconds - waited
    if left > 0:
        draft.revisit_in(left)
    return left <= 0


def bear(seen: Observed, draft: Draft, *, since: datetime | None, seconds: int, field: str) -> None:
    """Fail the run where the wait that was just stated has lasted too long, else look again then.

    Args:
        seen: What there is of the run.
        draft: Its condition Running says what is waited for.
        since: When the wait began; None for just now.
        seconds: How long it may last.
        field: Field of spec.limits that says so.
    """
    left = seconds - ((draft.now - since).total_seconds() if since is not None else 0)
    if left > 0:
        draft.revisit_in(left)
        return
    waiting = draft.condition(ConditionType.RUNNING)
    give_up(
        seen,
        draft,
        FailureStatus(
            reason=waiting.reason,
            message=clip(f"Given up after {seconds} s (spec.limits.{field}). {waiting.message}"),
            retryable=True,
        ),
    )
