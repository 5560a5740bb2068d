"""The pictures of a result: base beside base + LoRA, same prompt, same seed.

A module of its own because what is drawn, how it is named and what a restart may keep is one
small contract between the sampler, the sheet and the report.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from PIL import Image, ImageStat

from lora_api.settings import ValidationSettings
from lora_trainer.disk import write_atomically
from lora_trainer.errors import is_out_of_memory
from lora_trainer.lora import base_only
from lora_trainer.progress import Advance
from lora_trainer.recipes import Sampler, TextSource
from lora_trainer.stopping import StopFlag

SEEDS_PER_PROMPT = 3
# A picture whose every channel is about one value: what comes of numbers that are not finite.
_FLAT = 2


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """One picture on the way."""

    prompt: str
    """What was asked for."""

    seed: int
    """Its seed."""

    path: Path
    """The picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Brush:
    """What every picture of a run is drawn with."""

    sampler: Sampler
    """Draws with the denoiser as it is."""

    texts: TextSource
    """Gives the prompts' embeddings."""

    sampling_steps: int
    """Denoising steps per picture."""

    guidance_scale: float
    """Of the family's guidance."""

    resolution: int
    """Side in pixels."""

    def draw(self, prompt: str, seeds: list[int]) -> list[Image.Image]:
        """One picture per seed; one at a time where there is no room for them together."""
        try:
            return self.sampler.draw(
                prompt=self.texts.text(prompt),
                empty=self.texts.text(""),
                seeds=seeds,
                resolution=self.resolution,
                steps=self.sampling_steps,
                guidance_scale=self.guidance_scale,
            )
        except Exception as error:
            if len(seeds) == 1 or not is_out_of_memory(error):
                raise
        # Here the error is gone, and with it what the failed attempt held.
        return [picture for seed in seeds for picture in self.draw(prompt, [seed])]


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


def planned_previews(folder: Path, prompts: list[str], *, seed: int, step: int) -> list[Preview]:
    """Which pictures are drawn at a step, and their file names.

    Args:
        folder: The previews' folder.
        prompts: What to draw.
        seed: Of each of them.
        step: Steps done.
    """
    at = folder / f"step-{step:08d}"
    return [
        Preview(prompt=prompt, seed=seed, path=at / f"prompt-{number:02d}-seed-{seed}.png")
        for number, prompt in enumerate(prompts, 1)
    ]


def draw_previews(brush: Brush, previews: list[Preview]) -> None:
    """Draw pictures with the model as it is.

    Args:
        brush: Draws.
        previews: What to draw.
    """
    for preview in previews:
        [picture] = brush.draw(preview.prompt, [preview.seed])
        write_atomically(preview.path, partial(picture.save, format="PNG"))


@contextmanager
def heard(models: Sequence[torch.nn.Module], passed: Callable[[], None]) -> Iterator[None]:
    """Tell of each pass through a model: pictures and scores may take minutes.

    Args:
        models: The denoisers.
        passed: Called after each pass; may say that the run lives, and raise where a stop was
            asked for.
    """
    hooks = [one.register_forward_hook(lambda *_: passed()) for one in models]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def draw_samples(
    brush: Brush,
    denoiser: torch.nn.Module,
    drawn: list[Drawn],
    *,
    advance: Advance,
    stop: StopFlag,
) -> None:
    """Draw all pairs, the seeds of a prompt together; files of an earlier attempt are kept.

    Args:
        brush: Draws.
        denoiser: Has the LoRA active.
        drawn: What to draw.
        advance: Told of every prompt.
        stop: A stop ends it between two prompts.
    """
    prompts = [list(pairs) for _, pairs in groupby(drawn, lambda pair: pair.number)]

    def draw_all(path_of: Callable[[Drawn], Path], first: int) -> None:
        for number, pairs in enumerate(prompts, first):
            stop.check("drawing samples")
            if not all(path_of(pair).exists() for pair in pairs):
                pictures = brush.draw(pairs[0].prompt, [pair.seed for pair in pairs])
                for pair, picture in zip(pairs, pictures, strict=True):
                    write_atomically(path_of(pair), partial(picture.save, format="PNG"))
            advance(number, 2 * len(prompts))

    draw_all(lambda pair: pair.lora, 1)
    with base_only(denoiser):
        draw_all(lambda pair: pair.base, len(prompts) + 1)


def renders(path: Path) -> bool:
    """Whether a picture shows anything at all.

    Args:
        path: A picture; one that is missing shows nothing.
    """
    try:
        with Image.open(path) as image:
            extremes = ImageStat.Stat(image.convert("RGB")).extrema
    except OSError:
        return False
    return any(high - low > _FLAT for low, high in extremes)
