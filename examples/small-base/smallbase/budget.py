"""Train for a given time, on whatever machine: schedule by the clock, continue after a stop.

Both trainings share this: the learning rate follows the share of the time budget that is spent, so
that a slow or busy machine gives a less trained model but never a half-decayed one.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smallbase import parallel


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a training is; `share` is the spent part of the budget in 0..1."""

    step: int
    share: float
    minutes: float


@dataclass(kw_only=True)
class Budget:
    """Counts steps against a number of minutes and remembers both across restarts."""

    minutes: float
    step: int = 0
    spent_seconds: float = 0.0
    _resumed_at: float = field(default_factory=time.monotonic)

    def elapsed_seconds(self) -> float:
        """Seconds trained so far, earlier runs of the same training included."""
        return self.spent_seconds + time.monotonic() - self._resumed_at

    def steps(self) -> Iterator[Progress]:
        """Yield once per optimiser step until the minutes are spent."""
        while (seconds := parallel.share(self.elapsed_seconds())) < 60 * self.minutes:
            yield Progress(
                step=self.step, share=seconds / (60 * self.minutes), minutes=seconds / 60
            )
            self.step += 1

    def state(self) -> dict[str, float]:
        """Return what `resume` needs."""
        return {"step": self.step + 1, "spent_seconds": self.elapsed_seconds()}

    def resume(self, state: dict[str, float]) -> None:
        """Continue from a saved state; the clock starts again now."""
        self.step = int(state["step"])
        self.spent_seconds = state["spent_seconds"]
        self._resumed_at = time.monotonic()


def learning_rate(peak: float, progress: Progress, *, warmup_steps: int, hold: float) -> float:
    """Warm up by steps, hold the peak for a share of the budget, then fall as a cosine."""
    warm = min(1.0, (progress.step + 1) / warmup_steps)
    falling = max(0.0, (progress.share - hold) / (1 - hold))
    return peak * warm * (0.5 * (1 + math.cos(math.pi * min(1.0, falling))) + 0.005)


class Average:
    """An exponential moving average of a model's parameters, in float32."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the current parameters, faster in the first steps."""
        decay = min(self._decay, (1 + step) / (20 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self._parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average with the live parameters; a second call undoes it."""
        for parameter, value in zip(self._parameters, self.values, strict=True):
            live = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(live)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a stop in the middle leaves the old one intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint written by `save`, or None where there is none."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def clip_and_step(
    loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """One update by the mean gradient of all processes, its norm limited to 1."""
    loss.backward()  # type: ignore[no-untyped-call]
    parallel.average_gradients(parameters)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
