"""The Job completed: the result is read from the pod, and the run ends well if it is there."""

from datetime import datetime

from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_api.status import (
    ArtifactStatus,
    ConditionType,
    FailureStatus,
    ProgressStatus,
    UploadStatus,
    ValidationStatus,
)
from lora_api.training import WorkspaceType
from lora_operator.rules.attempt_end import result_of
from lora_operator.rules.base import Verdict
from lora_operator.state.draft import Draft
from lora_operator.state.text import duration, four_digits
from lora_operator.state.views import Observed


def result_is_recorded(seen: Observed, draft: Draft) -> Verdict:
    """A stored LoRA is recorded as soon as its pod tells of it, before the pod can be lost."""
    for pod in reversed(seen.pods + seen.upload_pods):
        result = result_of(pod)
        if pod.container.exit_code == 0 and result is not None:
            _record(result, draft)
            break
    return Verdict.CONTINUE


def job_completed(seen: Observed, draft: Draft) -> Verdict:
    """End the run: Completed with an artifact, or Failed because nobody knows what was stored.

    A pod that is deleted while it ends takes its result along, if no operator lives in that second;
    the workspace or, where that was Ephemeral, the output still knows it, so a Job without a GPU is
    asked (`upload_is_repeated`).
    """
    if _went_with_its_end(seen, draft) and draft.artifact is not None:
        complete(draft, draft.artifact, at=draft.now)
        return Verdict.SETTLED
    if seen.job is None or seen.job.completed_at is None:
        return Verdict.CONTINUE
    if draft.artifact is not None:
        complete(draft, draft.artifact, at=seen.job.completed_at)
        return Verdict.SETTLED
    if draft.upload is not None:
        return Verdict.CONTINUE
    failure = _result_missing(seen)
    source = _who_can_tell(seen)
    if source is not None:
        draft.failure = failure
        draft.upload = UploadStatus(tries=0, next_try_at=draft.now)
        draft.wait(
            Reason.RESULT_MISSING,
            f"Job {seen.job.name} succeeded, but its pod was deleted before its result was read; a "
            f"Job without a GPU reads it again from {source}.",
        )
        draft.revisit_in(0)
    else:
        draft.fail(failure, at=seen.job.completed_at)
    # Exit code 0 means stored and checked; only the proof is lost. Not stored would be a lie.
    draft.set(
        ConditionType.ARTIFACT_STORED,
        "Unknown",
        Reason.RESULT_MISSING,
        "The trainer reported success, but its result could not be read.",
    )
    draft.set(ConditionType.VALIDATED, "Unknown", Reason.RESULT_MISSING)
    return Verdict.SETTLED


def _went_with_its_end(seen: Observed, draft: Draft) -> bool:
    """Whether the Job is gone, and not begun anew or waiting to be stored.

    Somebody who sets `ttlSecondsAfterFinished` on it has it removed in the moment of its end; what
    its pod stored before is there all the same.
    """
    is_begun_anew = seen.run.status.job_name != seen.run.job_name
    return seen.job is None and not is_begun_anew and draft.upload is None


def _who_can_tell(seen: Observed) -> str | None:
    """Who knows the result where it is lost with its pod alone.

    A pod that left none would say no more when it is asked again.
    """
    spec, claim = seen.run.spec, seen.claim
    if seen.pods:
        return None
    if spec is not None and spec.workspace.type is WorkspaceType.EPHEMERAL:
        return "the report in the output"
    has_workspace = claim is not None and not claim.deleting and claim.phase != "Lost"
    return "the workspace" if has_workspace else None


def complete(draft: Draft, artifact: ArtifactStatus, *, at: datetime) -> None:
    """End the run well: the LoRA is stored, and the Job that stored it is done."""
    draft.complete(_summary(artifact, draft, at), at=at)


def _record(result: Result, draft: Draft) -> None:
    if result.outcome is not Outcome.SUCCEEDED or result.artifact is None:
        return
    draft.artifact = result.artifact
    draft.set(ConditionType.ARTIFACT_STORED, "True", Reason.STORED, result.artifact.uri)
    known = draft.progress or ProgressStatus()
    if result.total_steps:
        draft.progress = known.model_copy(
            update={
                "stage": "Done",
                "step": result.step,
                "total_steps": result.total_steps,
                "percent": min(100, 100 * result.step // result.total_steps),
                "loss": known.loss if result.loss is None else four_digits(result.loss),
                "eta_seconds": None,
                "eta": None,
            }
        )
    _judge(result.validation or ValidationStatus(), draft)


def _judge(found: ValidationStatus, draft: Draft) -> None:
    """What the trainer's gate says of the LoRA, which is stored whatever that is."""
    if found.passed is not None or found.lora_loss is not None:
        draft.validation = found
    if found.passed is False:
        why = "; ".join(found.reasons)
        draft.set(ConditionType.VALIDATED, "False", Reason.GATE_NOT_PASSED, why)
    elif found.lora_loss is not None or found.alike is not None:
        draft.set(ConditionType.VALIDATED, "True", Reason.MEASURED, _measured(found))
    else:
        draft.set(
            ConditionType.VALIDATED,
            "False",
            Reason.NOT_MEASURED,
            "No pictures were held out; set spec.validation.heldOutImages to measure.",
        )


def _measured(found: ValidationStatus) -> str:
    parts = []
    if found.improvement_percent is not None:
        parts.append(
            f"The LoRA predicts {found.held_out_images} held-out picture(s) "
            f"{abs(found.improvement_percent):.1f} % "
            f"{'better' if found.improvement_percent >= 0 else 'worse'} than the base model."
        )
    if found.alike is not None:
        parts.append(
            f"The samples of {found.alike} of {found.compared} prompts are more alike to the "
            "training pictures than the base model's."
        )
    return " ".join(parts)


def _summary(artifact: ArtifactStatus, draft: Draft, at: datetime) -> str:
    text = f"Trained, checked and stored at {artifact.uri}"
    if draft.started_at is not None:
        text += f" in {duration((at - draft.started_at).total_seconds())}"
    return text + "."


def _result_missing(seen: Observed) -> FailureStatus:
    output = f" ({seen.run.spec.output.uri}report.json)" if seen.run.spec is not None else ""
    return FailureStatus(
        reason=Reason.RESULT_MISSING,
        message=(
            "The Job succeeded, but its pod is gone or left no result, so neither the LoRA's "
            f"place nor its digest is known. Look under spec.output.uri{output}, or create the "
            "run again."
        ),
        retryable=True,
    )
