"""What counts as a training picture, and how one becomes a square of pixels.

A module of its own because it is the trainer's face to files that anyone may have made: every
check looks at content, not at names, and every refusal says why.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("JPEG", "PNG", "WEBP")
# A 100-megapixel photo is real; beyond it, a few kilobytes can claim gigabytes of memory.
MAX_PIXELS = 100_000_000
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class PictureError(Exception):
    """Why one file is refused, in a few words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture that passed every check."""

    name: str
    """Its name in the dataset."""

    path: Path
    """Where it lies on this machine."""

    digest: str
    """Hex sha256 of the file."""

    width: int
    """Pixels, after EXIF rotation."""

    height: int
    """Pixels, after EXIF rotation."""

    converted: str | None
    """What had to be converted (alpha, CMYK, 16 bit), for the report; None where nothing had."""

    frames: int = 1
    """Frames that are trained on; 1 for a still picture."""


def check_picture(path: Path, *, name: str, min_side_pixels: int) -> Picture:
    """Decode a file wholly and check it.

    Args:
        path: The file.
        name: Its name in the dataset.
        min_side_pixels: Shortest side it may have.

    Raises:
        PictureError: Why it can't be trained on.
    """
    data = path.read_bytes()
    if not data:
        raise PictureError("is empty")
    try:
        with _open(path) as image:
            width, height = _turned_size(image)
            if min(width, height) < min_side_pixels:
                raise PictureError(
                    f"is {width} x {height} pixels, the shorter side must have at least "
                    f"{min_side_pixels} (dataset.minSidePixels)"
                )
            converted = _conversion(image)
            image.load()
    except PictureError:
        raise
    except Exception as error:  # whatever a decoder raises on broken data, the file is at fault
        raise PictureError(f"is damaged ({_first_line(error)})") from error
    return Picture(
        name=name,
        path=path,
        digest=hashlib.sha256(data).hexdigest(),
        width=width,
        height=height,
        converted=converted,
    )


def load_square(path: Path, *, resolution: int) -> "np.ndarray":
    """A picture as the model sees it: turned upright, scaled down, centre-cropped.

    Args:
        path: A checked picture.
        resolution: Side of the square in pixels.

    Returns:
        uint8 [resolution, resolution, 3].
    """
    import numpy as np

    with _open(path) as image:
        square = ImageOps.fit(
            to_rgb(image), (resolution, resolution), method=Image.Resampling.LANCZOS
        )
    return np.asarray(square)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any accepted picture as upright 8-bit RGB; transparency becomes white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _SIXTEEN_BIT:
        return upright.point(lambda value: value / 257.0).convert("L").convert("RGB")
    if upright.has_transparency_data:
        layers = upright.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    return upright.convert("RGB")


def _open(path: Path) -> Image.Image:
    """Open by content; refuse wrong types, animations and bombs before any pixel is decoded."""
    # Pillow's own bomb check only warns below twice its limit; ours refuses at a known size.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError("is not a JPG, PNG or WebP picture") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise PictureError(
            f"claims {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels"
        )
    # A JPEG with several frames is a phone's photo with a depth map; its first frame is the photo.
    if image.format not in {"JPEG", "MPO"} and getattr(image, "n_frames", 1) > 1:
        image.close()
        raise PictureError("is animated; export one frame of it")
    return image


def _turned_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(0x0112, 1) in {5, 6, 7, 8}
    width, height = image.size
    return (height, width) if turned else (width, height)


def _conversion(image: Image.Image) -> str | None:
    if image.mode == "CMYK":
        return "CMYK to RGB"
    if image.mode in _SIXTEEN_BIT:
        return "16 bit to 8 bit"
    if image.has_transparency_data:
        return "transparency to white"
    return None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:120]
