"""The trainer's last word: the termination message, at most 4 KiB of JSON.

A module of its own because it is what certainly reaches the operator, even from a pod that lived
too short to be asked for progress; the kubelet cuts anything longer.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from lora_api.base import Count, LenientDocument, Loss, ReasonWord
from lora_api.status import ArtifactStatus, ValidationStatus

MAX_RESULT_BYTES = 4096
# A truncated message ends in this, so that a reader knows that the log has more.
ELLIPSIS = " [...]"


class Outcome(StrEnum):
    """How the trainer's process ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    INTERRUPTED = "Interrupted"


class Result(LenientDocument):
    """What became of one attempt."""

    outcome: Outcome
    """How it ended."""

    reason: ReasonWord
    """Stable word for programs; one of `Reason`, or one that only a newer trainer knows."""

    message: Annotated[str, Field(max_length=2048)]
    """Sentence for people: what, where, and what to do about it."""

    retryable: bool
    """Whether another attempt of the same job can succeed."""

    step: Count = 0
    """Optimiser steps done."""

    total_steps: Count = 0
    """Optimiser steps in all."""

    loss: Loss | None = None
    """Smoothed training loss at the end."""

    artifact: ArtifactStatus | None = None
    """The stored LoRA, where there is one."""

    validation: ValidationStatus | None = None
    """Held-out losses, where they were measured."""

    stage_seconds: Annotated[dict[str, float], Field(default_factory=dict, max_length=16)]
    """Seconds spent in each stage of this attempt."""

    def to_termination_message(self) -> bytes:
        """The result as JSON that fits a termination message.

        Returns:
            At most MAX_RESULT_BYTES of UTF-8; `message` is shortened to fit, and where the places
            of the artifact alone take all the room, the gate's reasons go: report.json has them.
        """
        data = self._encode()
        if len(data) <= MAX_RESULT_BYTES:
            return data
        # JSON escapes grow a character to six bytes at most (\\u00XX), so cutting the excess in
        # characters always suffices and the loop below only refines what is kept.
        keep = len(self.message)
        while len(data) > MAX_RESULT_BYTES and keep > 0:
            keep = max(0, keep - max(16, (len(data) - MAX_RESULT_BYTES) // 6))
            short = self.model_copy(update={"message": self.message[:keep] + ELLIPSIS})
            data = short._encode()
        if len(data) > MAX_RESULT_BYTES and self.validation is not None and self.validation.reasons:
            bare = self.validation.model_copy(update={"reasons": ()})
            return self.model_copy(update={"validation": bare}).to_termination_message()
        return data

    def _encode(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()
