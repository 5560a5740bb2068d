"""The batches of each step: pictures, captions and random numbers.

A module of its own because it is where data and loop meet. Which pictures, captions and random
numbers step n has is a function of n, of the seed and of the process's number alone: a resumed
run, and a run on two devices, gets them without being told anything else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora_trainer.batch import collate
from lora_trainer.cache import Cache
from lora_trainer.dataset import Sample
from lora_trainer.group import Group
from lora_trainer.recipes import Batch
from lora_trainer.schedule import BatchOrder, seed_for

EMPTY_CAPTION = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What one forward and backward pass needs."""

    inputs: Batch
    """Tensors, on the device."""

    captions: list[str]
    """What each sample is trained with, for a text encoder that is trained too."""

    generator: torch.Generator
    """Source of the noise; it has drawn levels and captions already."""

    dropout_seed: int
    """Seed of the LoRA's dropout."""


def group_by_shape(samples: Sequence[Sample]) -> list[list[int]]:
    """Indices of the samples of each shape, the largest shape first."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.shape, []).append(index)
    return [groups[shape] for shape in sorted(groups, key=lambda s: (-math.prod(s), s))]


@dataclass(kw_only=True, slots=True)
class BatchSource:
    """Makes the batches of any step."""

    samples: Sequence[Sample]
    """What is trained on."""

    order: BatchOrder
    """Which of them each batch has."""

    cache: Cache
    """Their latents and embeddings."""

    seed: int
    """The run's seed."""

    accumulation: int
    """Batches of one step and process."""

    caption_dropout: float
    """Share of samples whose caption is left empty."""

    group: Group
    """This process among those that train together."""

    def of(self, step: int) -> list[MicroBatch]:
        """This process's batches of one step."""
        return [self._make(number) for number in self._numbers(step, self.group.rank)]

    def names(self, step: int) -> list[str]:
        """The pictures of one step, all processes, in the order of the losses."""
        return [
            self.samples[index].picture.name
            for rank in range(self.group.size)
            for number in self._numbers(step, rank)
            for index in self.order.at(number)
        ]

    def trials(self) -> list[MicroBatch]:
        """A batch of each shape, the largest first: what fits with these fits."""
        return [self._make(number) for number in self.order.first_of_each_group()]

    def _numbers(self, step: int, rank: int) -> list[int]:
        first = step * self.accumulation
        size = self.group.size
        return [(first + nth) * size + rank for nth in range(self.accumulation)]

    def _make(self, number: int) -> MicroBatch:
        generator = torch.Generator().manual_seed(seed_for(self.seed, "step", number))
        indices = self.order.at(number)
        variants = torch.randint(1 << 30, (len(indices),), generator=generator).tolist()
        chosen = [
            self.samples[index].variant(variant)
            for index, variant in zip(indices, variants, strict=True)
        ]
        dropped = torch.rand(len(chosen), generator=generator) < self.caption_dropout
        captions = [
            EMPTY_CAPTION if drop else sample.caption
            for sample, drop in zip(chosen, dropped.tolist(), strict=True)
        ]
        return MicroBatch(
            inputs=collate(
                chosen,
                captions,
                self.cache,
                levels=torch.rand(len(chosen), generator=generator),
                device=self.group.device,
            ),
            captions=captions,
            generator=generator,
            dropout_seed=seed_for(self.seed, "dropout", number),
        )
