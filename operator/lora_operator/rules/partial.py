"""spec.cancel.keepPartial: the LoRA of the last checkpoint is stored before the run ends.

A module of its own because a cancelled run has one thing left to do here, and it may fail in ways
that the user has to be told; the run ends in every case.
"""

from datetime import datetime

from lora_api.reasons import Reason
from lora_api.result import Outcome
from lora_api.status import ConditionType, PartialStatus
from lora_api.training import WorkspaceType
from lora_operator.labels import partial_job_name, workspace_name
from lora_operator.rules.attempt_end import explain_end, result_of
from lora_operator.rules.giving_up import has_workspace
from lora_operator.rules.held_elsewhere import why_errand_is_held
from lora_operator.rules.patience import is_borne_no_more
from lora_operator.rules.refusals import retry_seconds
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.pace import LOOK_AGAIN_SECONDS
from lora_operator.state.text import quote, sentence
from lora_operator.state.views import Job, Observed, Refusal, Refused

LIMIT_REACHED = "given up after the seconds of spec.limits.creationTimeoutSeconds."
NOTHING = "No checkpoint had been written, so there is no partial LoRA."


def what_is_kept(seen: Observed, draft: Draft) -> str | None:
    """What became of the partial LoRA, in a sentence; empty where nobody wants one.

    Returns:
        None while the Job that stores it is awaited.
    """
    spec = seen.run.spec
    if spec is None or spec.cancel is None or not spec.cancel.keep_partial:
        return ""
    if draft.artifact is not None:
        return f"The whole LoRA is stored at {draft.artifact.uri}."
    if not draft.attempts or not (_is_ephemeral(seen) or has_workspace(seen)):
        draft.partial = PartialStatus()
        return NOTHING
    job = seen.partial_job
    if job is None and seen.job_refused is not None:
        return _bear_refusal(seen, draft, seen.job_refused)
    if job is not None and job.is_finished:
        return _outcome(seen, draft)
    if job is None:
        draft.do(Action.CREATE_PARTIAL_JOB)
    return _await(seen, draft, job)


def _bear_refusal(seen: Observed, draft: Draft, refused: Refused) -> str | None:
    """Try again, as with every other creation."""
    if is_borne_no_more(seen, draft, since=_refused_since(draft)):
        return _lost(
            seen, f"{LIMIT_REACHED} The API server refuses its Job: {quote(refused.message)}"
        )
    message = (
        f"The run is being cancelled (spec.cancel). The API server refuses {refused.what}, which "
        f"is to store the LoRA of its last checkpoint: {quote(refused.message)}. It is tried again "
        "for the seconds of spec.limits.creationTimeoutSeconds; then the run ends without it."
    )
    draft.wait(Reason(refused.kind), message)
    if draft.condition(ConditionType.ARTIFACT_STORED).reason != Reason.RESULT_MISSING:
        draft.set(ConditionType.ARTIFACT_STORED, "False", refused.kind, message)
    draft.revisit_in(retry_seconds(refused))
    return None


def _refused_since(draft: Draft) -> datetime | None:
    """When this wait began: a run may have been Pending, or not stored, for long before it."""
    stored = draft.condition(ConditionType.ARTIFACT_STORED)
    is_told = draft.condition(ConditionType.RUNNING).reason in set(Refusal)
    if not is_told or draft.pending_since is None:
        return None
    return max(draft.pending_since, stored.last_transition_time)


def _await(seen: Observed, draft: Draft, job: Job | None) -> str | None:
    """Say what is waited for; whoever holds the Job back may do so as long as the spec allows."""
    held = why_errand_is_held(seen, draft, job) if job is not None else None
    if job is None or held is None:
        draft.wait(
            Reason.CANCELLING,
            "The run is being cancelled (spec.cancel); it ends once Job "
            f"{partial_job_name(seen.run.key.name)} has stored the LoRA of its last checkpoint.",
        )
        return None
    reason, why = held
    if is_borne_no_more(seen, draft, since=job.created_at):
        return _lost(seen, f"{LIMIT_REACHED} {why}")
    draft.wait(reason, f"The run is being cancelled (spec.cancel). {why}")
    draft.revisit_in(LOOK_AGAIN_SECONDS)
    return None


def _outcome(seen: Observed, draft: Draft) -> str:
    for pod in reversed(seen.partial_pods):
        result = result_of(pod)
        if pod.container.exit_code != 0 or result is None:
            continue
        if result.outcome is not Outcome.SUCCEEDED or result.artifact is None:
            draft.partial = PartialStatus()
            return NOTHING
        draft.partial = PartialStatus(
            uri=result.artifact.uri,
            digest=result.artifact.digest,
            size_bytes=result.artifact.size_bytes,
            format=result.artifact.format,
            step=result.step,
            total_steps=result.total_steps,
        )
        return f"The LoRA as of step {result.step} is stored at {result.artifact.uri}."
    job, spec = seen.partial_job, seen.run.spec
    if job is not None and job.completed_at is not None and spec is not None:
        return (
            "Its Job succeeded: the LoRA of its last checkpoint, where there was one, is stored "
            f"under {str(spec.output.uri).rstrip('/')}/partial/; the result was lost with the pod."
        )
    failed = [pod for pod in seen.partial_pods if pod.has_ended]
    why = explain_end(seen, failed[-1]).message if failed else "its Job left no word"
    return _lost(seen, why)


def _lost(seen: Observed, why: str) -> str:
    place = f"the claim {workspace_name(seen.run.key.name)}"
    if _is_ephemeral(seen):
        place = f"the output's bucket under .workspace/{seen.run.uid}/"
    return (
        f"The LoRA of its last checkpoint could not be stored: {sentence(why)} The checkpoint is "
        f"kept in {place}."
    )


def _is_ephemeral(seen: Observed) -> bool:
    spec = seen.run.spec
    return spec is not None and spec.workspace.type is WorkspaceType.EPHEMERAL
