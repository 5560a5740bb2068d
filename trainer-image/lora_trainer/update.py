"""From the losses of one step to new weights: everything that happens after the forward pass.

A module of its own because the order in here is a promise: gradients (averaged over processes by
the backward pass) are unscaled, clipped, judged, and only then applied. Nothing in it waits for
the device, which is why accelerate's wrapper around the optimiser has no place in it: that one
asks whether the update was applied.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lora_trainer.checkpoint import TrainingState
from lora_trainer.ema import MovingAverage
from lora_trainer.group import Group
from lora_trainer.guard import Gate
from lora_trainer.optimizers import step_unless
from lora_trainer.progress import is_loss
from lora_trainer.scaling import LossScale


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What the host is told of a step."""

    loss: float
    """Mean of the losses."""

    gradient_norm: float
    """Global norm of the gradients before clipping."""

    refused: bool
    """Whether the update was left out."""

    rescaled: bool
    """Whether it was left out only because fp16 needs a smaller loss scale."""

    losses: list[float]
    """Of each picture: all processes, all batches of the step."""

    @classmethod
    def of(cls, row: list[float]) -> "Figures":
        """Read what `Updater.apply` returned."""
        loss, norm, refused, rescaled, *losses = row
        return cls(
            loss=loss,
            gradient_norm=norm,
            refused=bool(refused),
            rescaled=bool(rescaled),
            losses=losses,
        )

    def at_fault(self, pictures: list[str]) -> list[str]:
        """Those of the step's pictures whose own loss is none; all, where that tells nothing.

        Args:
            pictures: Names, in the order of the losses.
        """
        bad = [name for name, loss in zip(pictures, self.losses, strict=True) if not is_loss(loss)]
        return bad or pictures


@dataclass(kw_only=True, slots=True)
class Updater:
    """The trained parameters and all that changes them."""

    parameters: dict[str, torch.nn.Parameter]
    """What is trained, in float32."""

    optimizer: torch.optim.Optimizer
    """Turns gradients into updates."""

    gate: Gate
    """Judges each update."""

    max_grad_norm: float
    """Gradients are clipped to this global norm."""

    group: Group
    """The processes that train together."""

    scale: LossScale | None = None
    """Loss scaling, for fp16."""

    average: MovingAverage | None = None
    """Moving average of the weights, where the job wants one."""

    def backward(self, loss: torch.Tensor) -> None:
        """Add one batch's gradients to those of the step, and average them after the last."""
        self.group.backward(loss if self.scale is None else self.scale.scale(loss))

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Hold the room that optimiser and averaging will need from the first step on."""
        copies = 2 if self.group.size == 1 else 3
        held = [torch.empty_like(p) for p in self.parameters.values() for _ in range(copies)]
        yield
        held.clear()

    def try_out(self, loss: torch.Tensor) -> None:
        """A backward pass whose gradients are thrown away; ends when the device is done."""
        torch.autograd.backward(loss)
        self.optimizer.zero_grad(set_to_none=True)
        float(loss.detach())

    def apply(self, step: int, losses: torch.Tensor, *, learning_rate: float) -> torch.Tensor:
        """End a step: update the weights, or leave them as they are.

        Args:
            step: Its number, from 0.
            losses: Of this process's pictures, one-dimensional.
            learning_rate: Of this step.

        Returns:
            What `Figures.of` reads, still on the device.
        """
        losses = self.group.gather(losses)
        if self.scale is not None:
            self.scale.unscale([p.grad for p in self.parameters.values() if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        loss = losses.mean()
        curable = None
        if self.scale is not None:
            curable = self.scale.update(torch.isfinite(loss) & ~torch.isfinite(norm))
        refused = self.gate.refuses(loss, norm, curable=curable)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        step_unless(self.optimizer, refused)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step, refused=refused)
        rescaled = torch.zeros_like(refused) if curable is None else curable.float()
        return torch.cat([torch.stack([loss, norm, refused, rescaled]), losses])

    @contextmanager
    def finished(self) -> Iterator[None]:
        """The weights as they would be saved now: the moving average, where there is one."""
        with nullcontext() if self.average is None else self.average.applied():
            yield

    def finish(self) -> None:
        """Make the weights those that are saved, for good."""
        if self.average is not None:
            self.average.apply()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must have of it, under the names of `TrainingState`."""
        return {
            "lora": {name: value.detach().cpu() for name, value in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "loss_scale": None if self.scale is None else self.scale.state(),
        }

    @torch.no_grad()
    def restore(self, state: TrainingState) -> None:
        """Go on from a checkpoint."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state.lora[name])
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None and state.average is not None:
            self.average.restore(state.average)
        if self.scale is not None and state.loss_scale is not None:
            self.scale.restore(state.loss_scale)
        self.gate = Gate(self.group.device, refused_in_a_row=state.refused_in_a_row)
