"""What happens at step n, as pure functions of n: learning rate, batch, random seeds.

A module of its own because this is what makes a resumed run the same run: nothing here has a
state that could be lost, so the step number in a checkpoint is also the position of the sampler,
of the learning rate and of every random stream.
"""

import hashlib
import math
import random
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


def batch_at(step: int, *, batch_size: int, count: int, seed: int) -> list[int]:
    """Indices of the samples of one step: epochs are shuffled anew and follow without a gap.

    Args:
        step: Number of the step, from 0.
        batch_size: Samples per step.
        count: Samples in the dataset.
        seed: The run's seed.
    """
    first = step * batch_size
    return [
        _order((first + offset) // count, count, seed)[(first + offset) % count]
        for offset in range(batch_size)
    ]


@lru_cache(maxsize=4)
def _order(epoch: int, count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed_for(seed, "epoch", epoch)).shuffle(order)  # noqa: S311
    return order
