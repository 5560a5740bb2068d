"""How far the run has come, for everyone who asks at once: HTTP, metrics, terminal, result.

A module of its own because the training thread writes it and other threads read it; nothing else
is shared between them.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from typing import TypeGuard

from lora_api.base import MAX_LEARNING_RATE, MAX_LOSS
from lora_api.progress import (
    MAX_ETA_SECONDS,
    MAX_STEPS,
    MAX_STEPS_PER_SECOND,
    Progress,
    Stage,
)
from lora_trainer.meter import Meter

Advance = Callable[[float, float], None]
"""Told what is done of a stage, and all there is to do."""

# Shares of a usual run's time, by stage: what is said of the whole must move, not be exact.
_SHARES = {
    Stage.PLAN: 0.0,
    Stage.FETCH: 4.0,
    Stage.VALIDATE: 1.0,
    Stage.LOAD: 3.0,
    Stage.CACHE: 4.0,
    Stage.TRAIN: 75.0,
    Stage.SAVE: 1.0,
    Stage.SAMPLE: 10.0,
    Stage.PUBLISH: 2.0,
    Stage.DONE: 0.0,
}
# Stages that a base model of several denoisers goes through once for each.
_REPEATED = (Stage.TRAIN, Stage.SAVE)
# A step that takes this many times the median compiles, or waits for something that passes.
_OUTLIER = 5.0
# Smoothing and speed look at about this many steps: short enough to follow, long enough to read.
_LOSS_WINDOW_STEPS = 20
_SPEED_WINDOW_STEPS = 50


class StepClock:
    """Steps per second in the steady state.

    The first step's warm-up does not count, nor do steps that are far slower than the others
    because something is compiled for them.

    Args:
        window: Step durations remembered.
    """

    def __init__(self, window: int = _SPEED_WINDOW_STEPS) -> None:
        self._durations: deque[float] = deque(maxlen=window)
        self._steps = 0

    def add(self, seconds: float) -> None:
        """Count one step that took `seconds`; the first one is left out of the speed."""
        self._steps += 1
        if self._steps > 1:
            self._durations.append(seconds)

    @property
    def steps_per_second(self) -> float | None:
        """Speed over the window; None before there is one."""
        if not self._durations:
            return None
        limit = _OUTLIER * median(self._durations)
        steady = [seconds for seconds in self._durations if seconds <= limit]
        total = sum(steady)
        return min(MAX_STEPS_PER_SECOND, len(steady) / total) if total > 0 else None


class ProgressBoard:
    """The run's present state; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage = Stage.PLAN
        self._stage_percent = 0.0
        self._stage_started = time.monotonic()
        self._stage_seconds: dict[str, float] = {}
        self._step = 0
        self._total_steps = 0
        self._part = 0
        self._parts = 1
        self._loss: float | None = None
        self._learning_rate: float | None = None
        self._clock = StepClock()
        self._steps_per_epoch: float | None = None
        self._meter = Meter()
        self._updated_at = datetime.now(UTC)

    def enter(self, stage: Stage) -> None:
        """Begin a stage; the one before it is over."""
        with self._lock:
            self._close_stage()
            self._stage = stage
            self._stage_percent = 100.0 if stage is Stage.DONE else 0.0
            self._touch()

    def advance(self, done: float, total: float) -> None:
        """Say how much of the present stage is done, in any unit."""
        with self._lock:
            self._stage_percent = min(100.0, 100.0 * done / total) if total > 0 else 100.0
            self._touch()

    def alive(self) -> None:
        """Say that something moves, where it is not known yet how far it came."""
        with self._lock:
            self._touch()

    def begin_part(self, part: int, *, of: int) -> None:
        """Say which of the base model's denoisers is trained now; each takes all of its steps.

        Args:
            part: From 0.
            of: How many there are.
        """
        with self._lock:
            self._part, self._parts = part, of

    def expect(self, total_steps: int, *, done: int = 0) -> None:
        """Set the present denoiser's number of optimiser steps, and how many were done before."""
        with self._lock:
            self._total_steps = total_steps
            self._step = done
            self._touch()

    def divide(self, steps_per_epoch: float) -> None:
        """Set how many optimiser steps see every training picture once; at least a part of one."""
        with self._lock:
            self._steps_per_epoch = steps_per_epoch

    def stepped(
        self, step: int, *, loss: float | None, learning_rate: float, seconds: float
    ) -> None:
        """Record one optimiser step.

        Args:
            step: Steps done, this one included.
            loss: Its loss; what is none (None, not finite, out of bounds) leaves the average.
            learning_rate: Its learning rate.
            seconds: Its wall-clock time.
        """
        with self._lock:
            self._step = step
            self._learning_rate = learning_rate
            if is_loss(loss):
                self._loss = smoothed(self._loss, loss)
            self._clock.add(seconds)
            self._stage_percent = min(100.0, 100.0 * step / max(1, self._total_steps))
            self._touch()

    def restore_loss(self, loss: float | None) -> None:
        """Continue the smoothed loss of an earlier attempt."""
        with self._lock:
            self._loss = loss if is_loss(loss) else None

    @property
    def loss(self) -> float | None:
        """Smoothed training loss."""
        with self._lock:
            return self._loss

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in each stage so far, the present one included."""
        with self._lock:
            seconds = dict(self._stage_seconds)
            running = time.monotonic() - self._stage_started
            seconds[self._stage.value] = seconds.get(self._stage.value, 0.0) + running
            return {name: round(value, 3) for name, value in seconds.items() if value >= 0.001}

    def snapshot(self) -> Progress:
        """The state as the document that /progress serves; whatever came in, it can be said."""
        with self._lock:
            speed = self._clock.steps_per_second
            step = min(MAX_STEPS, self._part * self._total_steps + self._step)
            total_steps = min(MAX_STEPS, self._parts * self._total_steps)
            left = total_steps - step
            training = self._stage is Stage.TRAIN
            return Progress(
                stage=self._stage,
                stage_percent=round(self._stage_percent, 2),
                percent=round(self._percent(), 1),
                epoch=self._epoch(),
                step=step,
                total_steps=total_steps,
                loss=self._loss,
                learning_rate=_said_rate(self._learning_rate),
                steps_per_second=speed,
                eta_seconds=(
                    min(MAX_ETA_SECONDS, round(left / speed, 1)) if speed and training else None
                ),
                gpu_peak_bytes=self._meter.peak_bytes,
                gpu_utilization_percent=self._meter.utilization_percent,
                updated_at=self._updated_at,
            )

    def _percent(self) -> float:
        """How much of the whole run is done."""
        if self._stage is Stage.DONE:
            return 100.0
        stages = list(_SHARES)
        before = sum(_SHARES[stage] for stage in stages[: stages.index(self._stage)])
        done = before + _SHARES[self._stage] * self._stage_percent / 100.0
        if self._stage not in _REPEATED:
            return done
        first = sum(_SHARES[stage] for stage in stages[: stages.index(_REPEATED[0])])
        repeated = sum(_SHARES[stage] for stage in _REPEATED)
        return first + (self._part * repeated + done - first) / self._parts

    def _epoch(self) -> int | None:
        if not self._steps_per_epoch or not self._total_steps:
            return None
        step = self._part * self._total_steps + self._step
        return min(MAX_STEPS, 1 + int(max(0, step - 1) / self._steps_per_epoch))

    def _close_stage(self) -> None:
        now = time.monotonic()
        name = self._stage.value
        self._stage_seconds[name] = self._stage_seconds.get(name, 0.0) + now - self._stage_started
        self._stage_started = now

    def _touch(self) -> None:
        self._updated_at = datetime.now(UTC)


def share_of(advance: Advance, first: float, last: float) -> Advance:
    """Reports of one part of a stage as reports of the stage.

    Args:
        advance: Told of the stage.
        first: Percent of the stage at which the part begins.
        last: Percent at which it ends.
    """

    def reported(done: float, total: float) -> None:
        share = done / total if total > 0 else 1.0
        advance(first + (last - first) * share, 100.0)

    return reported


def is_loss(value: float | None) -> TypeGuard[float]:
    """Whether a number is a loss that can be learned from and reported: finite and bounded."""
    return value is not None and 0.0 <= value <= MAX_LOSS


def _said_rate(value: float | None) -> float | None:
    """A learning rate within what the document may say; None where it is no number."""
    if value is None or math.isnan(value):
        return None
    return min(MAX_LEARNING_RATE, max(0.0, value))


def smoothed(average: float | None, value: float) -> float:
    """Exponential moving average over about 20 steps; the first value starts it."""
    if average is None:
        return value
    return average + (value - average) / _LOSS_WINDOW_STEPS
