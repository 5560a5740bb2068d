"""Draw the contact sheet by which a person judges the model.

It goes through diffusers' own pipeline and the exported folder, so that it shows what users get.
No sample is chosen: the seeds are 0, 1, 2, ... in the order of the prompts.
"""

from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from smallbase.subjects import PLACES, SIZES, SUBJECTS, caption

GUIDANCE_SCALE: Final = 3.0
SAMPLING_STEPS: Final = 25
_ZOOM: Final = 2
_LABEL_PIXELS: Final = 14
_GAP_PIXELS: Final = 4


def prompts() -> list[str]:
    """One prompt per subject; places and sizes take turns."""
    return [
        caption(subject, PLACES[(4 * index) % len(PLACES)], SIZES[index % len(SIZES)])
        for index, subject in enumerate(SUBJECTS)
    ]


def sample(model: Path, texts: list[str], *, first_seed: int = 0) -> list[Image.Image]:
    """Draw one picture per text with the exported model."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for start in range(0, len(texts), 10):
        part = texts[start : start + 10]
        seeds = range(first_seed + start, first_seed + start + len(part))
        images += pipeline(
            part,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            guidance_scale=GUIDANCE_SCALE,
            num_inference_steps=SAMPLING_STEPS,
        ).images
    return images


def grid(images: list[Image.Image], labels: list[str], *, columns: int) -> Image.Image:
    """Arrange pictures in rows, each with its caption below."""
    side = images[0].width * _ZOOM
    wide, high = side + _GAP_PIXELS, side + _LABEL_PIXELS + _GAP_PIXELS
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * wide, rows * high), "white")
    pen = ImageDraw.Draw(page)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = index % columns * wide, index // columns * high
        page.paste(image.resize((side, side), Image.Resampling.NEAREST), (left, top))
        short = label.replace(" background", "").removeprefix("a ").removeprefix("an ")
        pen.text((left + 1, top + side), short, fill="black", font_size=10)
    return page


def write(model: Path, path: Path) -> None:
    """Draw all prompts with `model` and save the sheet."""
    texts = prompts()
    grid(sample(model, texts), texts, columns=10).save(path, optimize=True)
