"""What the ledger makes of a run's status: when a run has its place, and when it gives it back.

A module of its own because these few lines are the promise that a user is given about counting.
"""

from decimal import Decimal

from lora_api.policy_ledger import RunState
from lora_api.status import LoRATrainingStatus, Phase
from lora_api.training import LoRATrainingSpec
from lora_operator.policy.ledger import Sighting
from lora_operator.policy.speed import measured

NOT_AT_WORK = frozenset({None, Phase.PENDING, Phase.QUEUED, Phase.SUSPENDED})


def state_of(status: LoRATrainingStatus) -> RunState:
    """Where a run stands for the count of its month.

    Completed runs and those that wait, run or validate count. Failed ones don't, nor those that
    were cancelled before any step.
    """
    match status.phase:
        case Phase.COMPLETED:
            return RunState.COUNTED
        case Phase.FAILED:
            return RunState.RETURNED
        case Phase.CANCELLED:
            return RunState.COUNTED if _steps(status) else RunState.RETURNED
        case phase:
            return RunState.WAITING if phase in NOT_AT_WORK else RunState.RUNNING


def sighting(
    spec: LoRATrainingSpec,
    status: LoRATrainingStatus,
    *,
    per_gpu_hour: Decimal,
    product: str = "",
) -> Sighting:
    """A run as the ledger sees it.

    Args:
        spec: What it asks for.
        status: How it stands.
        per_gpu_hour: Price on the node that it is on, or was last.
        product: Name of the GPUs there, if it is known.
    """
    steps, timeline = _steps(status), status.timeline
    return Sighting(
        user=spec.user or "",
        recipe=spec.recipe,
        gpus=spec.resources.gpus,
        state=state_of(status),
        gpu_seconds=status.gpu_seconds or 0,
        steps=steps,
        per_gpu_hour=per_gpu_hour,
        measured=measured(spec, steps=steps, train_seconds=timeline.train_seconds, product=product)
        if timeline is not None and status.phase is Phase.COMPLETED
        else None,
    )


def _steps(status: LoRATrainingStatus) -> int:
    return status.progress.step if status.progress is not None else 0
