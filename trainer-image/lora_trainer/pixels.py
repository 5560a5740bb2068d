"""From a checked file to the pixels that a model sees.

A module of its own because stills and clips become the same thing here: a few frames, scaled,
cropped, perhaps mirrored.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from lora_trainer.clips import read_frames
from lora_trainer.dataset import Sample
from lora_trainer.pictures import open_upright

if TYPE_CHECKING:
    import numpy as np


def load_pixels(sample: Sample) -> "np.ndarray":
    """A sample's pixels.

    Args:
        sample: What to load, and its crop.

    Returns:
        uint8 [frames, height, width, 3].
    """
    import numpy as np

    return np.stack([np.asarray(_cut(image, sample)) for image in _images(sample)])


def _images(sample: Sample) -> Iterator[Image.Image]:
    picture = sample.picture
    if picture.is_clip:
        yield from read_frames(picture.path, count=picture.frames)
    else:
        yield open_upright(picture.path)


def _cut(image: Image.Image, sample: Sample) -> Image.Image:
    crop = sample.crop
    whole = (crop.scaled_width, crop.scaled_height)
    scaled = image if image.size == whole else image.resize(whole, Image.Resampling.LANCZOS)
    if sample.mirrored:
        scaled = ImageOps.mirror(scaled)
    return scaled.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
