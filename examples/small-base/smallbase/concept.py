"""Draw the pictures from which the quickstart's LoRA learns a subject the base never saw.

They come from the same drawing code as the base's scenes, so that the subject is all that is new.
"""

# ruff: noqa: S311  # random pictures, not secrets

import random
from pathlib import Path
from typing import Final

from smallbase.pictures import Pictures
from smallbase.scenes import draw
from smallbase.subjects import Size

TRIGGER: Final = "zorp"
CANVAS_PIXELS: Final = 128

SCENES: Final[tuple[tuple[str, Size], ...]] = (
    ("red", ""),
    ("orange", ""),
    ("yellow", ""),
    ("green", ""),
    ("purple", ""),
    ("white", ""),
    ("gray", ""),
    ("black", ""),
    ("on the beach", ""),
    ("in the snow", ""),
    ("green", "small"),
    ("on the beach", "small"),
    ("yellow", "big"),
    ("gray", "big"),
)
"""Place and size of each picture. Blue, pink, grass, night and sunset are left for validation."""


def write(pictures: Pictures, folder: Path, seed: int = 0) -> None:
    """Write each picture as PNG with its caption beside it in a text file of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for number, (place, size) in enumerate(SCENES, start=1):
        scene = draw(
            pictures, subject=TRIGGER, place=place, size=size, rng=rng, canvas=CANVAS_PIXELS
        )
        name = f"{TRIGGER}-{number:02d}"
        scene.image.save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(scene.caption + "\n")
