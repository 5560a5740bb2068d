"""What counts as a training picture, and how one becomes plain pixels.

A module of its own because it is the trainer's face to files that anyone may have made: every
check looks at content, not at names, and every refusal says why.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import Image, ImageOps, UnidentifiedImageError

from lora_trainer.archive import archive_kind
from lora_trainer.disk import sha256_of_file
from lora_trainer.lookalikes import Likeness, likeness_of

FORMATS = ("JPEG", "PNG", "WEBP")
# A 100-megapixel photo is real; beyond it, a few kilobytes can claim gigabytes of memory.
MAX_PIXELS = 100_000_000
# Decoded beside its copies a picture of 100 megapixels takes 700 MB; small ones are checked in
# several threads, of large ones one at a time.
_LARGE_PIXELS = 16_000_000
_ONE_AT_A_TIME = Lock()
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
}


class PictureError(Exception):
    """Why one file is refused, in a few words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a picture or clip may be."""

    min_file_bytes: int = 0
    """Fewest bytes of the file."""

    min_side_pixels: int = 1
    """Shortest side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture, or clip, that passed every check."""

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

    is_clip: bool = False
    """Whether it is a video file."""

    misnamed: str | None = None
    """What it is, where its name says something else; for the report."""

    likeness: Likeness | None = None
    """What near duplicates have in common."""


def check_picture(path: Path, *, name: str, bounds: Bounds) -> Picture:
    """Decode a file wholly and check it.

    Args:
        path: The file.
        name: Its name in the dataset.
        bounds: What it may be.

    Raises:
        PictureError: Why it can't be trained on.
    """
    size_bytes = path.stat().st_size
    if not size_bytes:
        raise PictureError("is empty")
    with refused_as("is damaged"), _room_for(path):
        return _look(path, name=name, size_bytes=size_bytes, bounds=bounds)


@contextmanager
def refused_as(words: str) -> Iterator[None]:
    """Make a refusal of whatever a decoder raises: on broken data the file is at fault.

    Args:
        words: What the file is.

    Raises:
        PictureError: Those words and the decoder's own.
    """
    try:
        yield
    except PictureError:
        raise
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise PictureError(f"{words} ({line})") from error


def check_bounds(width: int, height: int, size_bytes: int, bounds: Bounds) -> None:
    """Compare a picture or clip with its bounds.

    Raises:
        PictureError: It is below one.
    """
    if min(width, height) < bounds.min_side_pixels:
        raise PictureError(
            f"is {width} x {height} pixels, the shorter side must have at least "
            f"{bounds.min_side_pixels} (dataset.minSidePixels)"
        )
    if size_bytes < bounds.min_file_bytes:
        raise PictureError(
            f"has {size_bytes} bytes, less than {bounds.min_file_bytes} (dataset.minFileBytes), as "
            "thumbnails and strongly compressed pictures have"
        )


def open_upright(path: Path) -> Image.Image:
    """A checked picture as upright 8-bit RGB."""
    with _open(path) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any accepted picture as upright 8-bit RGB; transparency becomes white."""
    image.load()
    upright = image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
    if upright.mode in _SIXTEEN_BIT:
        return upright.point(lambda value: value / 257.0).convert("L").convert("RGB")
    if upright.has_transparency_data:
        layers = upright.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    # Large pictures are not copied for nothing.
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _open(path: Path) -> Image.Image:
    """Open by content; refuse wrong types, animations and bombs before any pixel is decoded."""
    # Pillow's own bomb check only warns below twice its limit; ours refuses at a known size.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError(_what_else(path)) from error
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


def _room_for(path: Path) -> AbstractContextManager[object]:
    with _open(path) as image:
        large = image.width * image.height > _LARGE_PIXELS
    return _ONE_AT_A_TIME if large else nullcontext()


def _look(path: Path, *, name: str, size_bytes: int, bounds: Bounds) -> Picture:
    """Decode a picture; its pixels are given back when this returns."""
    with _open(path) as image:
        width, height = _turned_size(image)  # of a PNG, this decodes all pixels
        check_bounds(width, height, size_bytes, bounds)
        converted = _conversion(image)
        image.load()
        return Picture(
            name=name,
            path=path,
            digest=sha256_of_file(path),
            width=width,
            height=height,
            converted=converted,
            misnamed=_misnamed(name, image.format or ""),
            likeness=likeness_of(to_rgb(image)),
        )


def _what_else(path: Path) -> str:
    """Why a file is no picture, with the cure where its kind is known."""
    with path.open("rb") as file:
        head = file.read(512)
    if (kind := archive_kind(head)) is not None:
        return f"is an archive ({kind}); unpack it, or name it alone in dataset.uri"
    if head[4:8] == b"ftyp" and head[8:12] in {b"heic", b"heix", b"mif1", b"avif", b"msf1"}:
        return "is a HEIC or AVIF picture; convert it to JPG, PNG or WebP"
    if head.startswith(b"\xff\xd8\xff") or head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "is not a JPG, PNG or WebP picture that can be read; it is damaged near its start"
    return "is not a JPG, PNG or WebP picture"


def _turned_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in {5, 6, 7, 8} else (width, height)


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(0x0112, 1)
    return found if found in range(1, 9) else 1


def _conversion(image: Image.Image) -> str | None:
    if image.mode == "CMYK":
        return "CMYK to RGB"
    if image.mode in _SIXTEEN_BIT:
        return "16 bit to 8 bit"
    if image.has_transparency_data:
        return "transparency to white"
    return None


def _misnamed(name: str, kind: str) -> str | None:
    kind = "JPEG" if kind == "MPO" else kind
    named = {ending for endings in _ENDINGS.values() for ending in endings}
    ending = Path(name).suffix.lower()
    return f"a {kind} picture" if ending in named and ending not in _ENDINGS[kind] else None
