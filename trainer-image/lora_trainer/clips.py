"""Video files: what may be trained on, and which of their frames are.

A module of its own because PyAV is imported here alone, and only where there is a clip.

Frames are taken from the beginning, `FRAMES_PER_SECOND` of them a second of film, because that is
the speed at which WAN 2.1 was trained (https://github.com/Wan-Video/Wan2.1): frames spread over a
longer film would teach that everything moves fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lora_trainer.disk import sha256_of_file
from lora_trainer.lookalikes import likeness_of
from lora_trainer.pictures import Bounds, Picture, PictureError, check_bounds, refused_as

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from PIL.Image import Image

FRAMES_PER_SECOND = 16
# Only the beginning is trained on; whoever names an hour of film meant something else.
MAX_SECONDS = 120
# Cinema 4K and a little; a frame is 28 MB as plain pixels.
_MAX_FRAME_PIXELS = 4096 * 2304
# Frames that may be decoded to get the wanted ones: 240 a second, for the longest clip.
_MAX_DECODED = 4096
_BRANDS_OF_PICTURES = frozenset({b"heic", b"heix", b"mif1", b"avif", b"msf1"})
# Half a tick of the coarsest clock in use, 1/1000 s.
_TOLERANCE_SECONDS = 0.0005


def clip_format(path: Path) -> str | None:
    """What kind of video a file is by its content, as FFmpeg calls it; None where it is none.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] not in _BRANDS_OF_PICTURES:
        return "mp4"
    return "matroska" if head.startswith(b"\x1a\x45\xdf\xa3") else None


def check_clip(path: Path, *, name: str, frames: int, bounds: Bounds) -> Picture:
    """Decode the frames that will be trained on, and check the file.

    Args:
        path: A file that `clip_format` knows.
        name: Its name in the dataset.
        frames: Most frames to train on, 4 n + 1.
        bounds: What it may be.

    Returns:
        The clip; its frames are the greatest 4 n + 1 that it has, at most `frames`.

    Raises:
        PictureError: Why it can't be trained on.
    """
    found = 0
    with refused_as("is a damaged video"):
        with _opened(path) as container:
            _check_length(container)
        for image in read_frames(path, count=frames):
            if not found:
                first = image
                check_bounds(*image.size, path.stat().st_size, bounds)
            found += 1
    if not found:
        raise PictureError("is a video without a frame that can be decoded")
    if found < min(5, frames):
        raise PictureError(
            f"is a video of {found} frames at {FRAMES_PER_SECOND} a second, fewer than 5; use a "
            "longer clip or a picture"
        )
    width, height = first.size
    return Picture(
        name=name,
        path=path,
        digest=sha256_of_file(path),
        width=width,
        height=height,
        converted=None,
        frames=(found - 1) // 4 * 4 + 1,
        is_clip=True,
        likeness=likeness_of(first),
    )


def read_frames(path: Path, *, count: int) -> "Iterator[Image]":
    """The first frames of a clip, upright, at `FRAMES_PER_SECOND`.

    Where the film has fewer a second, a frame is given again.

    Args:
        path: A file that `clip_format` knows.
        count: Most frames to give.

    Raises:
        PictureError: It holds no film, or frames of enormous size.
    """
    given = 0
    shown: Image | None = None
    with _opened(path) as container:
        start: float | None = None
        seconds = 0.0
        for number, frame in enumerate(container.decode(video=0)):
            if frame.width * frame.height > _MAX_FRAME_PIXELS:
                raise PictureError(f"has frames of {frame.width} x {frame.height} pixels")
            if number >= _MAX_DECODED:
                break
            time = frame.time if frame.time is not None else number / FRAMES_PER_SECOND
            start = time if start is None else start
            length, seconds = max(0.0, time - start - seconds), time - start
            # What was shown until now fills the places before this frame.
            while shown is not None and given / FRAMES_PER_SECOND < seconds - _TOLERANCE_SECONDS:
                yield shown
                given += 1
                if given == count:
                    return
            shown = _upright(frame)
        # The last frame is shown for as long as the one before it was.
        while shown is not None and given < count:
            if given and given / FRAMES_PER_SECOND > seconds + length - _TOLERANCE_SECONDS:
                return
            yield shown
            given += 1


def _upright(frame: "VideoFrame") -> "Image":
    image: Image = frame.to_image()  # type: ignore[no-untyped-call]
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


@contextmanager
def _opened(path: Path) -> "Iterator[InputContainer]":
    """The file with the one demuxer that its content asks for, so that none opens other files."""
    import av

    container = av.open(str(path), mode="r", format=clip_format(path), metadata_errors="replace")
    try:
        if not container.streams.video:
            raise PictureError("is a video file without a picture track")
        yield container
    finally:
        container.close()


def _check_length(container: "InputContainer") -> None:
    stream = container.streams.video[0]
    if stream.width * stream.height > _MAX_FRAME_PIXELS:
        raise PictureError(f"has frames of {stream.width} x {stream.height} pixels")
    seconds = (container.duration or 0) / 1_000_000
    if seconds > MAX_SECONDS:
        raise PictureError(
            f"lasts {seconds:.0f} s, more than {MAX_SECONDS}; cut it into clips of a few seconds"
        )
