"""Videos: which frames are trained on, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from tests.datasets import ADataset, a_dataset, a_picture, write_clip

from lora_trainer.clips import MAX_SECONDS, clip_format, read_frames
from lora_trainer.pixels import load_pixels


def _greys(path: Path, count: int) -> list[int]:
    """The number of each frame that is read, from its grey value."""
    return [round(np.asarray(image).mean() / 10) for image in read_frames(path, count=count)]


SPEEDS: dict[str, tuple[int, int, list[int]]] = {
    "as fast as the model's": (16, 20, list(range(9))),
    "twice as fast: every other frame": (32, 24, list(range(0, 18, 2))),
    "half as fast: every frame twice": (8, 12, [0, 0, 1, 1, 2, 2, 3, 3, 4]),
    "shorter than asked for": (16, 6, list(range(6))),
}


@pytest.mark.parametrize("name", SPEEDS)
def test_frames_are_taken_from_the_start_at_16_a_second(name: str, tmp_path: Path) -> None:
    rate, frames, expected = SPEEDS[name]
    path = write_clip(tmp_path / "a.mp4", frames=frames, rate=rate)
    assert _greys(path, 9) == expected


@pytest.mark.parametrize("kind", ["mp4", "mov", "webm"])
def test_a_clip_is_known_by_its_content(kind: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "no-ending", frames=9, kind=kind)
    assert clip_format(path) == ("matroska" if kind == "webm" else "mp4")
    assert len(_greys(path, 9)) == 9


def _wan(root: Path) -> ADataset:
    return a_dataset(root).of("wan", 64).having(minSidePixels=32, frames=9)


def test_clips_and_pictures_are_mixed_in_buckets_of_their_own(tmp_path: Path) -> None:
    dataset = _wan(tmp_path)
    write_clip(dataset.folder / "long.mp4", frames=20)
    write_clip(dataset.folder / "short.webm", frames=7, kind="webm")
    a_picture(1, 96, 64).save(dataset.folder / "still.png")
    shapes = {sample.picture.name: sample.shape for sample in dataset.checked().samples}
    assert {name: shape[0] for name, shape in shapes.items()} == {
        "long.mp4": 9,
        "short.webm": 5,
        "still.png": 1,
    }
    for sample in dataset.checked().samples:
        assert load_pixels(sample).shape == (*sample.shape, 3)


def _cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def test_broken_and_unfit_videos_are_all_named(tmp_path: Path) -> None:
    dataset = _wan(tmp_path)
    folder = dataset.folder
    _cut(write_clip(folder / "cut.mp4", frames=20), 0.5)
    _cut(write_clip(folder / "cut.webm", frames=20, kind="webm"), 0.05)
    write_clip(folder / "long.mp4", frames=MAX_SECONDS + 2, rate=1)
    write_clip(folder / "brief.mp4", frames=3)
    write_clip(folder / "tiny.mp4", frames=20, width=16, height=16)
    (folder / "fake.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(2000))
    message = dataset.refusal().message
    assert "6 files" in message
    for words in (
        "cut.mp4 is a",
        "cut.webm is a",
        f"long.mp4 lasts {MAX_SECONDS + 2} s, more than {MAX_SECONDS}",
        "brief.mp4 is a video of 3 frames at 16 a second, fewer than 5",
        "tiny.mp4 is 16 x 16 pixels",
        "fake.mp4 is a",
    ):
        assert words in message, message


def test_a_family_of_pictures_says_that_a_video_is_none(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(1)
    write_clip(dataset.folder / "a.mp4", frames=9)
    assert "a.mp4 is a video; sd15 trains on pictures alone" in dataset.refusal().message
