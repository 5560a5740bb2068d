"""The pictures of a result: base beside base + LoRA, same prompt, same seed.

A module of its own because what is drawn, how it is named and what a restart may keep is one
small contract between the sampler, the sheet and the report.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from PIL.Image import Image

from lora_api.settings import ValidationSettings
from lora_trainer.cache import Cache
from lora_trainer.disk import write_atomically
from lora_trainer.errors import is_out_of_memory
from lora_trainer.lora import base_only
from lora_trainer.progress import ProgressBoard
from lora_trainer.recipes import Sampler
from lora_trainer.stopping import StopFlag

SEEDS_PER_PROMPT = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """One pair of pictures."""

    number: int
    """The prompt's, from 1; two prompts may have the same words."""

    prompt: str
    """What was asked for."""

    seed: int
    """Seed of both."""

    base: Path
    """The base model's picture."""

    lora: Path
    """Base + LoRA's."""


def planned_samples(folder: Path, prompts: list[str], settings: ValidationSettings) -> list[Drawn]:
    """Which pairs will be drawn, and their file names.

    Args:
        folder: The samples' folder.
        prompts: What to draw.
        settings: First seed.
    """
    return [
        Drawn(
            number=number,
            prompt=prompt,
            seed=settings.seed + offset,
            base=folder / f"prompt-{number:02d}-seed-{settings.seed + offset}-base.png",
            lora=folder / f"prompt-{number:02d}-seed-{settings.seed + offset}-lora.png",
        )
        for number, prompt in enumerate(prompts, 1)
        for offset in range(SEEDS_PER_PROMPT)
    ]


def draw_samples(
    sampler: Sampler,
    denoiser: torch.nn.Module,
    drawn: list[Drawn],
    cache: Cache,
    *,
    sampling_steps: int,
    guidance_scale: float,
    resolution: int,
    board: ProgressBoard,
    stop: StopFlag,
) -> None:
    """Draw all pairs, the seeds of a prompt together; files of an earlier attempt are kept.

    Where a device has no room for them together, they are drawn one at a time.

    Args:
        sampler: Draws with the denoiser as it is.
        denoiser: Has the LoRA active.
        drawn: What to draw.
        cache: Holds the prompts' embeddings.
        sampling_steps: Denoising steps per picture.
        guidance_scale: Of the family's guidance.
        resolution: Side in pixels.
        board: Told of every prompt.
        stop: A stop ends it between two prompts.
    """
    prompts = [list(pairs) for _, pairs in groupby(drawn, lambda pair: pair.number)]

    def draw(pairs: list[Drawn]) -> list[Image]:
        try:
            return sampler.draw(
                prompt=cache.text(pairs[0].prompt),
                empty=cache.text(""),
                seeds=[pair.seed for pair in pairs],
                resolution=resolution,
                steps=sampling_steps,
                guidance_scale=guidance_scale,
            )
        except Exception as error:
            if len(pairs) == 1 or not is_out_of_memory(error):
                raise
        # Here the error is gone, and with it what the failed attempt held.
        return [picture for pair in pairs for picture in draw([pair])]

    def draw_all(path_of: Callable[[Drawn], Path], first: int) -> None:
        for number, pairs in enumerate(prompts, first):
            stop.check("drawing samples")
            if not all(path_of(pair).exists() for pair in pairs):
                for pair, picture in zip(pairs, draw(pairs), strict=True):
                    write_atomically(path_of(pair), partial(picture.save, format="PNG"))
            board.advance(number, 2 * len(prompts))

    draw_all(lambda pair: pair.lora, 1)
    with base_only(denoiser):
        draw_all(lambda pair: pair.base, len(prompts) + 1)
