"""Termination messages for tests: what a trainer leaves at its end.

A module of its own because these are the trainer's words; the builders make Kubernetes' objects.
"""

from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_api.status import ArtifactStatus, ValidationStatus
from tests.builders import DIGEST


def a_good_result(*, measured: bool = True, failed: tuple[str, ...] = ()) -> str:
    """The termination message of a trainer that stored its LoRA.

    Args:
        measured: Whether pictures were held out.
        failed: Why the gate was not passed.
    """
    return (
        Result(
            outcome=Outcome.SUCCEEDED,
            reason=Reason.COMPLETED,
            message="Trained, checked and stored.",
            retryable=False,
            step=100,
            total_steps=100,
            loss=0.04333708247495597,
            artifact=ArtifactStatus(
                uri="s3://models/anna/model.safetensors",
                digest=DIGEST,
                size_bytes=123456,
                format="kohya",
            ),
            validation=(
                ValidationStatus(
                    base_loss=0.2,
                    lora_loss=0.1,
                    improvement_percent=50.0,
                    held_out_images=2,
                    passed=not failed,
                    reasons=failed,
                )
                if measured
                else None
            ),
        )
        .to_termination_message()
        .decode()
    )


def a_bad_result(
    reason: str = Reason.TOO_FEW_IMAGES,
    message: str = "s3://datasets/anna/ holds 2 pictures; spec.dataset.minImages asks for 3.",
    *,
    retryable: bool = False,
) -> str:
    """The termination message of a trainer that could not go on."""
    return (
        Result(outcome=Outcome.FAILED, reason=reason, message=message, retryable=retryable)
        .to_termination_message()
        .decode()
    )


def an_interruption(*, step: int, total_steps: int = 100) -> str:
    """The termination message of a trainer that wrote a checkpoint on SIGTERM."""
    return (
        Result(
            outcome=Outcome.INTERRUPTED,
            reason=Reason.INTERRUPTED,
            message="Stopped; a checkpoint is saved.",
            retryable=True,
            step=step,
            total_steps=total_steps,
        )
        .to_termination_message()
        .decode()
    )


NO_CHECKPOINT = (
    Result(
        outcome=Outcome.SUCCEEDED,
        reason=Reason.COMPLETED,
        message="There is nothing to publish: no checkpoint had been written.",
        retryable=False,
    )
    .to_termination_message()
    .decode()
)
