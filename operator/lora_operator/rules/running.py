"""The trainer runs: its phase and progress, written only when they are worth a write."""

from datetime import datetime, timedelta

from lora_api.progress import Progress, Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, ProgressStatus
from lora_operator.rules.base import Verdict
from lora_operator.state.draft import Draft
from lora_operator.state.phase import RUNNING_PHASES
from lora_operator.state.text import duration, four_digits
from lora_operator.state.views import Observed

LONGEST_SILENCE = timedelta(seconds=15)

_DOES = {
    Stage.TRAIN: Reason.TRAINING,
    Stage.SAVE: Reason.VALIDATING,
    Stage.SAMPLE: Reason.VALIDATING,
    Stage.PUBLISH: Reason.UPLOADING,
    Stage.DONE: Reason.UPLOADING,
}
# The last of them is entered before its checkpoint is read, and a model takes minutes to load.
_BEFORE_STEPS = frozenset(
    {Stage.PLAN, Stage.FETCH, Stage.VALIDATE, Stage.LOAD, Stage.CACHE, Stage.TRAIN}
)
_ORDER = tuple(RUNNING_PHASES)


def trainer_runs(seen: Observed, draft: Draft) -> Verdict:
    """Mirror what the trainer last told about itself."""
    pod = seen.latest_pod
    if pod is None or not pod.container.running or pod.has_ended:
        return Verdict.CONTINUE
    told = seen.progress
    does = _DOES.get(told.stage, Reason.RUNNING) if told is not None else Reason.RUNNING
    known = draft.condition(ConditionType.RUNNING).reason
    if seen.run.status.pod_name == pod.name and known in RUNNING_PHASES:
        # Within one attempt it only moves forward, also when progress can't be read.
        does = max(does, Reason(known), key=_ORDER.index)
    draft.set(ConditionType.RUNNING, "True", does)
    draft.set(ConditionType.SUCCEEDED, "Unknown", does)
    draft.message = f"{draft.phase} in pod {pod.name} on node {pod.node}."
    mirror_progress(seen, draft)
    return Verdict.SETTLED


def mirror_progress(seen: Observed, draft: Draft) -> None:
    """Write down what the trainer last told, if that is worth a write."""
    if seen.progress is not None and is_worth_writing(draft.progress, seen.progress, draft.now):
        draft.progress = to_status(seen.progress, draft.now, draft.progress)


def is_worth_writing(
    known: ProgressStatus | None,
    told: Progress,
    now: datetime,
    *,
    silence: timedelta = LONGEST_SILENCE,
) -> bool:
    """A new stage, one percent, or any step after so long without a write."""
    step, total_steps = _steps(known, told)
    if known is None or known.stage != told.stage or known.percent != percent(step, total_steps):
        return True
    if known.step == step:
        return False
    return known.updated_at is None or now - known.updated_at >= silence


def percent(step: int, total_steps: int) -> int:
    """Steps done in percent, rounded down."""
    return min(100, 100 * step // total_steps) if total_steps else 0


def _steps(known: ProgressStatus | None, told: Progress) -> tuple[int, int]:
    """Steps done and in all; until a new attempt has found its checkpoint, the last one's."""
    if known is not None and told.stage in _BEFORE_STEPS and not told.step:
        return known.step, known.total_steps or told.total_steps
    return told.step, told.total_steps


def to_status(told: Progress, now: datetime, known: ProgressStatus | None = None) -> ProgressStatus:
    """The trainer's progress as the status shows it.

    Args:
        told: What the pod said.
        known: What the status shows until now.
        now: Becomes `updatedAt`, from which the next write is timed. The pod's clock may be wrong,
            or lie, so it has no say in how often is written.
    """
    eta = None if told.eta_seconds is None else int(told.eta_seconds)
    step, total_steps = _steps(known, told)
    return ProgressStatus(
        stage=told.stage,
        step=step,
        total_steps=total_steps,
        percent=percent(step, total_steps),
        loss=four_digits(told.loss),
        learning_rate=four_digits(told.learning_rate),
        steps_per_second=four_digits(told.steps_per_second),
        eta_seconds=eta,
        eta=None if eta is None else duration(eta),
        updated_at=now,
    )
