"""The gate before every update: what is no loss, or not finite, never reaches the weights.

A module of its own because it is a safety rule that must hold whatever else the loop does, and a
test must be able to break it alone.

The decision is made on the device, before the update, and costs no wait. The host learns of it
some steps later (see readout.py), and then says which pictures were at fault. So that nothing
happens to the weights in between, the gate on the device stays shut by itself once the limit of
refusals in a row is reached.
"""

import math
from collections.abc import Sequence

import torch

from lora_api.base import MAX_LOSS
from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.errors import TrainerError
from lora_trainer.progress import is_loss

_LIMIT_IN_A_ROW = 3


class Gate:
    """The decision on the device.

    Args:
        device: Where losses and gradients are.
        refused_in_a_row: Refusals just before, from a checkpoint.
    """

    def __init__(self, device: torch.device, *, refused_in_a_row: int = 0) -> None:
        self._in_a_row = torch.full((), float(refused_in_a_row), device=device)

    def refuses(
        self, loss: torch.Tensor, gradient_norm: torch.Tensor, *, curable: torch.Tensor | None
    ) -> torch.Tensor:
        """Whether an update must be left out: a single float32 on the device, 0 or 1.

        Args:
            loss: The step's loss.
            gradient_norm: Global norm of its gradients.
            curable: Where a smaller loss scale will help, the update is left out, but it is no
                sign of divergence.
        """
        good = (loss >= 0.0) & (loss <= MAX_LOSS) & torch.isfinite(gradient_norm)
        shut = self._in_a_row >= _LIMIT_IN_A_ROW
        counts = ~good if curable is None else ~good & ~curable
        row = torch.where(good, 0.0, self._in_a_row + counts.float())
        self._in_a_row = torch.where(shut, self._in_a_row, row)
        return (shut | ~good).float()


class FiniteGuard:
    """What the host makes of the decisions: names the pictures, ends a run that diverges.

    Args:
        refused_in_a_row: Refusals just before, from a checkpoint.
    """

    def __init__(self, refused_in_a_row: int = 0) -> None:
        self.refused_in_a_row = refused_in_a_row

    def saw(self, *, loss: float, gradient_norm: float, step: int, pictures: Sequence[str]) -> None:
        """Take note of one step.

        Args:
            loss: The step's loss.
            gradient_norm: Global norm of the gradients.
            step: The step's number, from 1, for the message.
            pictures: The pictures at fault, for the message.

        Raises:
            TrainerError: TrainingDiverged.
        """
        if is_loss(loss) and math.isfinite(gradient_norm):
            self.refused_in_a_row = 0
            return
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
