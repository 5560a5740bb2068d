"""What happens at step n, as pure functions of n: learning rate, batch, random seeds.

A module of its own because this is what makes a resumed run the same run: nothing here has a
state that could be lost, so the step number in a checkpoint is also the position of the sampler,
of the learning rate and of every random stream.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from functools import lru_cache

from lora_api.settings import LrScheduler


def learning_rate_at(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, course: LrScheduler
) -> float:
    """Learning rate of one step.

    Args:
        step: Number of the step, from 0.
        peak: Highest rate.
        warmup_steps: Steps over which it rises linearly; the first has peak / warmup_steps.
        total_steps: Steps in all.
        course: How it goes on after the warm-up; cosine and linear would reach zero one step
            after the last.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if course is LrScheduler.COSINE:
        return peak * 0.5 * (1.0 + math.cos(math.pi * done))
    if course is LrScheduler.LINEAR:
        return peak * (1.0 - done)
    return peak


def seed_for(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for one use of randomness.

    Args:
        seed: The run's seed.
        purpose: What it is for; different purposes get unrelated numbers.
        index: Step, epoch or picture.

    Returns:
        0 to 2**63 - 1.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class BatchOrder:
    """Which samples each batch has: all of one shape, shuffled, every sample equally often.

    Batches are always full, so that no sample weighs more than another and no odd shape has to
    be compiled for. To that end a cycle has as many batches of a shape as there are samples of
    it: each sample comes exactly `batch_size` times in a cycle, and within it the shapes are
    spread evenly. Epochs of one shape are shuffled anew and follow without a gap.

    Args:
        groups: Indices of the samples of each shape; none is empty.
        batch_size: Samples per batch.
        seed: The run's seed.
    """

    def __init__(self, groups: Sequence[Sequence[int]], *, batch_size: int, seed: int) -> None:
        self._groups = [tuple(group) for group in groups]
        self._batch_size = batch_size
        self._seed = seed
        self._cycle = sum(len(group) for group in self._groups)
        self._drawn = lru_cache(maxsize=2)(self._draw_cycle)
        self._order = lru_cache(maxsize=4 * len(self._groups))(self._shuffle)

    @property
    def groups(self) -> int:
        """How many shapes there are."""
        return len(self._groups)

    def at(self, number: int) -> list[int]:
        """Indices of the samples of one batch.

        Args:
            number: Number of the batch, from 0.
        """
        cycle, place = divmod(number, self._cycle)
        which, nth = self._drawn(cycle)[place]
        group = self._groups[which]
        first = (cycle * len(group) + nth) * self._batch_size
        return [
            group[self._order(which, position // len(group))[position % len(group)]]
            for position in range(first, first + self._batch_size)
        ]

    def first_of_each_group(self) -> list[int]:
        """Number of the first batch of each shape, in the order of the groups."""
        first: dict[int, int] = {}
        for place, (which, _) in enumerate(self._drawn(0)):
            first.setdefault(which, place)
        return [first[which] for which in range(len(self._groups))]

    def _draw_cycle(self, cycle: int) -> list[tuple[int, int]]:
        """Shape and running number of each batch of a cycle."""
        chance = random.Random(seed_for(self._seed, "shapes", cycle))  # noqa: S311
        places = [
            ((nth + chance.random()) / len(group), which, nth)
            for which, group in enumerate(self._groups)
            for nth in range(len(group))
        ]
        return [(which, nth) for _, which, nth in sorted(places)]

    def _shuffle(self, which: int, epoch: int) -> list[int]:
        order = list(range(len(self._groups[which])))
        purpose = f"epoch of shape {which}"
        random.Random(seed_for(self._seed, purpose, epoch)).shuffle(order)  # noqa: S311
        return order


def images_per_step(*, batch_size: int, accumulation: int, processes: int) -> int:
    """Samples that one optimiser step learns from."""
    return batch_size * accumulation * processes


def steps_of(epochs: int, *, images: int, per_step: int) -> int:
    """Optimiser steps that see every sample `epochs` times; at least one.

    Args:
        epochs: Passes over the data.
        images: Samples of one pass, repeats included.
        per_step: Samples of one step.
    """
    return max(1, -(-epochs * images // per_step))
