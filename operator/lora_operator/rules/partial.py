"""spec.cancel.keepPartial: the LoRA of the last checkpoint is stored before the run ends.

A module of its own because a cancelled run has one thing left to do here, and it may fail in ways
that the user has to be told; the run ends in every case.
"""

from lora_api.reasons import Reason
from lora_api.result import Outcome
from lora_api.status import PartialStatus
from lora_api.training import WorkspaceType
from lora_operator.labels import partial_job_name, workspace_name
from lora_operator.rules.attempt_end import explain_end, result_of
from lora_operator.rules.giving_up import has_workspace
from lora_operator.rules.held_elsewhere import why_errand_is_held
from lora_operator.rules.patience import is_borne_no_more
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.pace import LOOK_AGAIN_SECONDS
from lora_operator.state.text import quote, sentence
from lora_operator.state.views import Job, Observed

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
        return _lost(seen, f"the API server refuses its Job: {quote(seen.job_refused.message)}")
    if job is not None and job.is_finished:
        return _outcome(seen, draft)
    if job is None:
        draft.do(Action.CREATE_PARTIAL_JOB)
    return _await(seen, draft, job)


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
