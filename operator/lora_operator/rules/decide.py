"""The chain of rules; their order is the policy."""

from datetime import datetime

from lora_operator.rules.admission import spec_is_admitted
from lora_operator.rules.attempt_over import attempt_is_hopeless, attempt_is_over
from lora_operator.rules.attempts import attempt_is_recorded
from lora_operator.rules.base import Rule, Verdict
from lora_operator.rules.cancellation import run_is_cancelled
from lora_operator.rules.completion import job_completed, result_is_recorded
from lora_operator.rules.deletion import being_deleted_is_left_alone
from lora_operator.rules.failure import job_failed
from lora_operator.rules.giving_up import training_is_noted
from lora_operator.rules.held_elsewhere import job_is_held_elsewhere
from lora_operator.rules.interruption import pod_is_taken_away
from lora_operator.rules.job_exists import job_exists
from lora_operator.rules.output import output_is_settled
from lora_operator.rules.placement import pod_is_placed
from lora_operator.rules.pod_creation import pod_is_created
from lora_operator.rules.policy import policy_admits
from lora_operator.rules.running import trainer_runs
from lora_operator.rules.stall import trainer_makes_progress
from lora_operator.rules.startup import container_starts
from lora_operator.rules.suspension import run_is_suspended
from lora_operator.rules.terminal import ended_stays_ended
from lora_operator.rules.upload import upload_is_repeated
from lora_operator.rules.workspace import (
    workspace_exists,
    workspace_is_bound,
    workspace_is_told,
)
from lora_operator.state.decision import Decision
from lora_operator.state.draft import Draft
from lora_operator.state.views import Observed

RULES: tuple[Rule, ...] = (
    being_deleted_is_left_alone,
    ended_stays_ended,
    spec_is_admitted,
    output_is_settled,
    attempt_is_recorded,
    workspace_is_told,
    result_is_recorded,
    training_is_noted,
    job_completed,
    run_is_cancelled,
    job_failed,
    upload_is_repeated,
    attempt_is_hopeless,
    policy_admits,
    job_is_held_elsewhere,
    run_is_suspended,
    workspace_exists,
    job_exists,
    workspace_is_bound,
    pod_is_created,
    pod_is_placed,
    pod_is_taken_away,
    container_starts,
    trainer_makes_progress,
    trainer_runs,
    attempt_is_over,
)


def decide(seen: Observed, now: datetime) -> Decision:
    """What to do about a run, and what to say about it.

    Args:
        seen: What is known of the run and its children.
        now: The present, in UTC.
    """
    draft = Draft(seen, now)
    for rule in RULES:
        if rule(seen, draft) is Verdict.SETTLED:
            break
    return draft.decision()
