"""How fast a recipe is trained on a kind of GPU: learned of runs that ended, expected of others.

A module of its own because a figure that is taken from one run and held against another must first
be made comparable: by the training itself, without what comes before and after it, and by what a
step works through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lora_api.policy_ledger import MAX_SPEEDS
from lora_api.recipes import RECIPES
from lora_api.training import LoRATrainingSpec

# A run of fewer steps tells of image pull, download and start, and little of its steps.
MEASURED_STEPS = 100
# What one run needed may be chance, and to refuse a run by it would keep it from being put right.
TRUSTED_RUNS = 3
# Beyond so many the older ones weigh half, and half again: images, drivers and clouds change.
REMEMBERED_RUNS = 200
# A block is 64 x 64 pixels, so that work is a whole number that a document can hold.
BLOCK_PIXELS = 64 * 64
# More than any real run's; so bounded, the sum of all that are remembered fits into a document.
MAX_WORK = 2**44
# Ten years: whoever asks for more is told a price that decimals hold.
LONGEST_SECONDS = 315_360_000


class Kind(NamedTuple):
    """What a speed is of."""

    recipe: str
    product: str
    """Name of the GPUs, by the label of their node; empty where that can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One training, as it was timed."""

    product: str
    work: int
    """Blocks of pixels that each GPU worked through."""
    train_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Sums over the runs of one kind; times are on the clock, whatever the number of GPUs."""

    runs: int = 0
    work: int = 0
    """Blocks of pixels that each GPU worked through."""
    train_seconds: int = 0
    other_seconds: int = 0
    """With GPUs and without training: image pull, data, checks, samples, storing."""

    @property
    def is_trusted(self) -> bool:
        """Whether enough was measured to refuse a run by it."""
        return self.runs >= TRUSTED_RUNS

    def seconds_for(self, work: int) -> int | None:
        """Seconds that a run with so much work is expected to hold its GPUs."""
        if not self.work or not self.runs:
            return None
        training = -(-self.train_seconds * work // self.work)
        return min(LONGEST_SECONDS, training - -self.other_seconds // self.runs)

    def and_one(self, measured: Measured, other_seconds: int) -> Speed:
        """The sums with one more run."""
        known = self._halved() if self.runs >= REMEMBERED_RUNS else self
        return Speed(
            runs=known.runs + 1,
            work=known.work + measured.work,
            train_seconds=known.train_seconds + measured.train_seconds,
            other_seconds=known.other_seconds + other_seconds,
        )

    def _halved(self) -> Speed:
        return Speed(
            runs=self.runs // 2,
            work=self.work // 2,
            train_seconds=self.train_seconds // 2,
            other_seconds=self.other_seconds // 2,
        )


Speeds = Mapping[Kind, Speed]


def step_work(spec: LoRATrainingSpec) -> int:
    """Blocks of pixels that one GPU works through in a step of this run, at least one.

    Resolution x resolution x frames x batch size x accumulated batches. What a step takes grows
    a little faster than the pixels where attention prevails; between 512 and 1024 pixels the
    difference is small against counting steps alone, which is wrong by four.
    """
    facts, wanted = RECIPES.get(spec.recipe), spec.optimization
    resolution = wanted.resolution or (facts.resolution if facts is not None else 512)
    frames = spec.dataset.frames or (facts.frames if facts is not None else 1)
    blocks = -(-resolution * resolution * frames // BLOCK_PIXELS)
    return blocks * wanted.batch_size * wanted.gradient_accumulation_steps


def measured(spec: LoRATrainingSpec, *, steps: int, train_seconds: int, product: str) -> Measured:
    """What was timed of a run."""
    work = steps * step_work(spec)
    return Measured(product=product, work=min(work, MAX_WORK), train_seconds=train_seconds)


def learned(
    speeds: Speeds, recipe: str, timed: Measured | None, *, steps: int, gpus: int, gpu_seconds: int
) -> Speeds:
    """The speeds with a run that completed, where it was long enough to say something.

    Args:
        speeds: What is known.
        recipe: Of the run.
        timed: Its training, if that was timed.
        steps: Its optimiser steps.
        gpus: That it held.
        gpu_seconds: For which they were paid.
    """
    if timed is None or not gpus or not gpu_seconds or steps < MEASURED_STEPS:
        return speeds
    if not 0 < timed.work < MAX_WORK or timed.train_seconds <= 0:
        return speeds
    kind = Kind(recipe, timed.product)
    if kind not in speeds and len(speeds) >= MAX_SPEEDS:
        return speeds
    other = max(0, gpu_seconds // gpus - timed.train_seconds)
    return {**speeds, kind: speeds.get(kind, Speed()).and_one(timed, other)}


def of_recipe(speeds: Speeds, recipe: str) -> dict[str, Speed]:
    """What is known of a recipe, by the name of the GPUs."""
    return {kind.product: speed for kind, speed in speeds.items() if kind.recipe == recipe}
