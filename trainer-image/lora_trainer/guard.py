"""The gate before every update: what is no loss, or not finite, never reaches the weights.

A module of its own because it is a safety rule that must hold whatever else the loop does, and a
test must be able to break it alone.
"""

import math
from typing import TypeGuard

from lora_api.base import MAX_LOSS
from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.errors import TrainerError

_LIMIT_IN_A_ROW = 3


def is_loss(value: float | None) -> TypeGuard[float]:
    """Whether a number is a loss that can be learned from and reported: finite and bounded."""
    return value is not None and 0.0 <= value <= MAX_LOSS


class FiniteGuard:
    """Decides whether an update may be applied; ends the run after three refusals in a row.

    Args:
        refused_in_a_row: Refusals just before, from a checkpoint.
    """

    def __init__(self, refused_in_a_row: int = 0) -> None:
        self.refused_in_a_row = refused_in_a_row

    def allows(self, *, loss: float, gradient_norm: float, step: int, pictures: list[str]) -> bool:
        """Whether this step's update may be applied.

        Args:
            loss: The step's loss.
            gradient_norm: Global norm of the gradients.
            step: The step's number, from 1, for the message.
            pictures: The step's pictures, for the message.

        Raises:
            TrainerError: TrainingDiverged.
        """
        if is_loss(loss) and math.isfinite(gradient_norm):
            self.refused_in_a_row = 0
            return True
        self.refused_in_a_row += 1
        names = ", ".join(dict.fromkeys(pictures))
        log.warning(
            "update left out", step=step, loss=loss, gradient_norm=gradient_norm, pictures=names
        )
        if self.refused_in_a_row >= _LIMIT_IN_A_ROW:
            raise TrainerError(
                Reason.TRAINING_DIVERGED,
                f"loss or gradients were not finite, or the loss was above {MAX_LOSS:g}, "
                f"{self.refused_in_a_row} steps in a row, last at step {step} with {names}; no "
                "such update was applied and the last checkpoint is kept. Lower "
                "optimization.learningRate, or check these pictures",
            )
        return False
