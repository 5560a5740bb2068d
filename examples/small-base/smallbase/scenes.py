"""Draw captioned scenes: one sprite on one place, deterministic for a given random generator.

Apart from the tables because this is where looks are decided, and from training because a LoRA's
example pictures are drawn by the same code.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smallbase.pictures import Pictures
from smallbase.subjects import COLOURS, CONCEPTS, PLACES, SCENES, SIZES, SUBJECTS, Size, caption

CANVAS_PIXELS: Final = 64
GRID_PIXELS: Final = 4
"""Sprites lie on multiples of the autoencoder's downsampling factor, so that a moved sprite is a
moved latent. The denoiser then learns each subject once and not once per sub-pixel offset."""

_SPRITE_PIXELS: Final[dict[Size, int]] = {"": 48, "small": 32, "big": 60}
_SHIFTS: Final[dict[Size, tuple[int, ...]]] = {
    "": (-4, 0, 4),
    "small": (-8, -4, 0, 4, 8),
    "big": (-4, 0),  # of the 4 px that are free
}
_SIZE_WEIGHTS: Final = (0.6, 0.2, 0.2)
_COLOUR_SHARE: Final = 0.6

Rgb = tuple[int, int, int]
Pixels = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One picture with its caption; `place` and `size` are what the caption says."""

    image: Image.Image
    caption: str
    subject: str
    place: str
    size: Size
    box: tuple[int, int, int, int]
    """Where the sprite's square lies: left, top, right, bottom in pixels."""


def gradient(top: Rgb, bottom: Rgb, height: int, width: int) -> Pixels:
    """Return a vertical colour gradient [height, width, 3] in 0..255."""
    share = np.linspace(0.0, 1.0, height)[:, None, None]
    column = (1 - share) * np.array(top, float) + share * np.array(bottom, float)
    return np.repeat(column, width, axis=1)


def _stack(bands: Sequence[tuple[Rgb, Rgb, int]], canvas: int) -> Pixels:
    """Stack gradients; each band gives its colours and its lower edge in 64ths of the height."""
    rows, above = [], 0
    for top, bottom, edge in bands:
        lower = edge * canvas // 64
        rows.append(gradient(top, bottom, lower - above, canvas))
        above = lower
    return np.concatenate(rows)


def _scene(name: str, rng: random.Random, canvas: int) -> Pixels:
    horizon = 40 + rng.choice((-2, 0, 2))
    if name == "on grass":
        sky, ground = ((110, 180, 245), (200, 228, 250)), ((120, 195, 80), (70, 150, 50))
        return _stack([(*sky, horizon), (*ground, 64)], canvas)
    if name == "in the snow":
        sky, ground = ((150, 175, 205), (205, 218, 232)), ((252, 252, 255), (225, 232, 245))
        return _stack([(*sky, horizon), (*ground, 64)], canvas)
    if name == "on the beach":
        sky, sea = ((130, 205, 250), (190, 232, 252)), ((40, 130, 200), (60, 165, 215))
        sand = ((245, 220, 160), (232, 195, 125))
        return _stack([(*sky, horizon - 12), (*sea, horizon), (*sand, 64)], canvas)
    if name == "at sunset":
        sky, ground = ((95, 60, 130), (252, 150, 70)), ((90, 55, 60), (50, 30, 45))
        return _stack([(*sky, horizon + 4), (*ground, 64)], canvas)
    return _night(rng, canvas, horizon + 6)


def _night(rng: random.Random, canvas: int, horizon: int) -> Pixels:
    sky, ground = ((14, 16, 52), (42, 40, 100)), ((28, 48, 42), (16, 30, 28))
    pixels = _stack([(*sky, horizon), (*ground, 64)], canvas)
    dot = canvas // 64
    for _ in range(14):
        x, y = rng.randrange(64) * dot, rng.randrange(38) * dot
        pixels[y : y + dot, x : x + dot] = (255, 250, 200)
    return pixels


def background(place: str, rng: random.Random, canvas: int = CANVAS_PIXELS) -> Image.Image:
    """Draw what is behind a subject.

    Args:
        place: a key of `COLOURS` or one of `SCENES`.
        rng: source of the small variations in shade, horizon and stars.
        canvas: edge length in pixels, a multiple of 64.
    """
    if place in COLOURS:
        shade = np.array(COLOURS[place], float) + rng.uniform(-6, 6)
        pixels = np.broadcast_to(shade, (canvas, canvas, 3))
    else:
        pixels = _scene(place, rng, canvas)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def paste(image: Image.Image, sprite: Image.Image, edge: int, left: int, top: int) -> None:
    """Scale `sprite` to fit a square of `edge` pixels and paste it centred in that square."""
    factor = edge / max(sprite.size)
    width, height = (max(1, round(side * factor)) for side in sprite.size)
    scaled = sprite.resize((width, height), Image.Resampling.LANCZOS)
    image.paste(scaled, (left + (edge - width) // 2, top + (edge - height) // 2), scaled)


def draw(
    pictures: Pictures,
    *,
    subject: str,
    place: str,
    size: Size,
    rng: random.Random,
    canvas: int = CANVAS_PIXELS,
) -> Scene:
    """Draw one scene; `subject` is a key of `SUBJECTS` or of `CONCEPTS`."""
    scale = canvas // CANVAS_PIXELS
    image = background(place, rng, canvas)
    edge = _SPRITE_PIXELS[size]
    middle = (CANVAS_PIXELS - edge + GRID_PIXELS) // 2 // GRID_PIXELS * GRID_PIXELS
    left, top = (middle + rng.choice(_SHIFTS[size]) for _ in range(2))
    sprite = pictures.sprite({**SUBJECTS, **CONCEPTS}[subject])
    paste(image, sprite, edge * scale, left * scale, top * scale)
    box = (left * scale, top * scale, (left + edge) * scale, (top + edge) * scale)
    return Scene(
        image=image,
        caption=caption(subject, place, size),
        subject=subject,
        place=place,
        size=size,
        box=box,
    )


def random_scene(pictures: Pictures, rng: random.Random) -> Scene:
    """Draw a scene of the denoiser's training set: subjects are equally likely."""
    place = rng.choice(tuple(COLOURS) if rng.random() < _COLOUR_SHARE else SCENES)
    size: Size = rng.choices(SIZES, _SIZE_WEIGHTS)[0]
    subject = rng.choice(tuple(SUBJECTS))
    return draw(pictures, subject=subject, place=place, size=size, rng=rng)


def random_texture(pictures: Pictures, rng: random.Random) -> Image.Image:
    """Draw a picture for the autoencoder: any emoji but the concepts, any colours, angle, place.

    The autoencoder has to draw what later LoRAs teach, so it sees far more than the denoiser.
    """
    if rng.random() < 0.5:
        return random_scene(pictures, rng).image
    names = [name for name in pictures.names if name not in CONCEPTS.values()]
    sprite = pictures.sprite(rng.choice(names))
    if rng.random() < 0.4:
        angle = rng.uniform(-40, 40)
        sprite = sprite.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    if rng.random() < 0.3:
        image = background(rng.choice(PLACES), rng)
    else:
        first = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        second = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        second = second if rng.random() < 0.5 else first
        pixels = gradient(first, second, CANVAS_PIXELS, CANVAS_PIXELS)
        image = Image.fromarray(pixels.astype(np.uint8))
    edge = rng.randrange(28, 64)
    spare = CANVAS_PIXELS - edge
    paste(image, sprite, edge, rng.randint(0, spare), rng.randint(0, spare))
    return image
