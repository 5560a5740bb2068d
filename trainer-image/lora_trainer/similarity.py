"""How alike the samples are to the training pictures, compared with the base model's.

A module of its own because the comparison is the measure, not the number: two embedders give
unlike figures, but the same order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lora_trainer.sample import Drawn

Embed = Callable[[Sequence[Image.Image]], torch.Tensor]
"""Gives pictures unit vectors, [pictures, width] in float32 on the CPU."""

# The last digit that the report shows, and well above what sums in another order make of the same
# picture: 2e-7 between batches of 1, 3 and 8 of the tests' DINOv2 and CLIP, on a CPU.
NOISE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """One prompt's samples against the training pictures."""

    number: int
    """The prompt's, from 1."""

    prompt: str
    """What was asked for."""

    base: float
    """Mean cosine similarity of the base model's samples to the training pictures."""

    lora: float
    """The same of base + LoRA's."""

    @property
    def alike(self) -> bool:
        """Whether the LoRA brought the samples nearer, by more than numerical noise."""
        return self.lora - self.base > NOISE

    def to_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "prompt": self.prompt,
            "base": round(self.base, 4),
            "lora": round(self.lora, 4),
            "alike": self.alike,
        }


def measure_similarity(
    embed: Embed,
    training: Sequence[Image.Image],
    drawn: Sequence[Drawn],
    *,
    check: Callable[[], None],
) -> list[Similarity]:
    """Compare each prompt's pictures with the training pictures.

    Args:
        embed: The embedder.
        training: What was trained on.
        drawn: Pairs, those of one prompt beside each other.
        check: Called between two prompts; may raise.
    """
    trained = embed(training)
    check()

    def similarity(paths: list[Path]) -> float:
        return float((embed([_opened(path) for path in paths]) @ trained.T).mean())

    found = []
    for number, group in groupby(drawn, lambda pair: pair.number):
        check()
        pairs = list(group)
        found.append(
            Similarity(
                number=number,
                prompt=pairs[0].prompt,
                base=similarity([pair.base for pair in pairs]),
                lora=similarity([pair.lora for pair in pairs]),
            )
        )
    return found


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
