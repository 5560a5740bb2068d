"""Pictures and captions, one file at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_api.job import JobDocument
from lora_api.reasons import Reason
from lora_trainer.captions import CaptionError, caption_for, read_caption, with_trigger
from lora_trainer.dataset import Sample, build_dataset, split
from lora_trainer.errors import TrainerError
from lora_trainer.fetch import FetchedDataset
from lora_trainer.pictures import Picture, PictureError, check_picture, load_square, to_rgb

TRIGGERS = {
    "no trigger word": ("a cat", None, "a cat"),
    "the word is put before": ("a cat", "zorp", "zorp, a cat"),
    "the word is there already": ("a zorp on grass", "zorp", "a zorp on grass"),
    "the word is there in another case": ("Zorp!", "zorp", "Zorp!"),
    "the word is part of another": ("a zorpling", "zorp", "zorp, a zorpling"),
    "two words": ("portrait of ohwx  anna", "ohwx anna", "portrait of ohwx  anna"),
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_trigger_word(name: str) -> None:
    caption, trigger, expected = TRIGGERS[name]
    assert with_trigger(caption, trigger) == expected


CAPTIONS: dict[str, tuple[bytes, str]] = {
    "not UTF-8": ("Müller".encode("latin-1"), "not UTF-8"),
    "UTF-16": ("a cat".encode("utf-16"), "not UTF-8"),
    "empty": (b"", "empty"),
    "blanks": (b" \r\n\t", "empty"),
    "zero bytes": (b"a\x00b", "control characters"),
    "a book": (b"word " * 5000, "longer than"),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_bad_caption_is_refused(name: str, tmp_path: Path) -> None:
    data, words = CAPTIONS[name]
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(CaptionError, match=words):
        read_caption(tmp_path / "a.txt")


def test_a_caption_is_one_line_without_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffein Kürbis\r\n im  Garten\n".encode())
    assert read_caption(tmp_path / "a.txt") == "ein Kürbis im Garten"


def test_without_file_the_trigger_word_is_the_caption() -> None:
    assert caption_for(None, trigger_word="zorp") == "zorp"
    with pytest.raises(CaptionError, match=r"dataset\.triggerWord"):
        caption_for(None, trigger_word=None)


def _red(size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, (200, 10, 10))


GOOD: dict[str, Callable[[Path], object]] = {
    "JPEG": lambda path: _red().save(path, "JPEG"),
    "PNG": lambda path: _red().save(path, "PNG"),
    "WebP": lambda path: _red().save(path, "WEBP"),
    "CMYK": lambda path: _red().convert("CMYK").save(path, "JPEG"),
    "palette": lambda path: _red().convert("P").save(path, "PNG"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_picture_is_known_by_its_content_and_becomes_a_square(name: str, tmp_path: Path) -> None:
    path = tmp_path / "no-ending"
    GOOD[name](path)
    picture = check_picture(path, name="p", min_side_pixels=60)
    assert (picture.width, picture.height) == (80, 60)
    square = load_square(path, resolution=32)
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8
    assert np.abs(square.astype(int) - (200, 10, 10)).max() < 30


def test_exif_rotation_turns_the_picture_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (80, 60), "black")
    image.paste("white", (0, 0, 80, 20))  # white on top, as the camera stored it
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: top becomes right
    image.save(tmp_path / "a.jpg", exif=exif)
    picture = check_picture(tmp_path / "a.jpg", name="a.jpg", min_side_pixels=16)
    assert (picture.width, picture.height) == (60, 80)
    square = load_square(tmp_path / "a.jpg", resolution=60)
    assert square[30, 55].mean() > 200
    assert square[30, 5].mean() < 50


def test_transparency_becomes_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_become_eight() -> None:
    image = Image.new("I;16", (4, 4), 65535 // 2)
    assert to_rgb(image).getpixel((0, 0)) == pytest.approx((127, 127, 127), abs=1)


def test_the_shorter_side_counts(tmp_path: Path) -> None:
    _red((200, 40)).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match=r"200 x 40.*at least 64"):
        check_picture(tmp_path / "a.png", name="a.png", min_side_pixels=64)


def _samples(*digests: str) -> list[Sample]:
    return [
        Sample(
            picture=Picture(
                name=f"{place}.png",
                path=Path(f"{place}.png"),
                digest=digest,
                width=64,
                height=64,
                converted=None,
            ),
            caption="zorp",
        )
        for place, digest in enumerate(digests)
    ]


def test_the_held_out_pictures_do_not_depend_on_names_or_order() -> None:
    samples = _samples("a", "b", "c", "d", "e")
    chosen = {sample.picture.digest for sample in split(samples, 2, 7)[1]}
    again = {sample.picture.digest for sample in split(samples[::-1], 2, 7)[1]}
    assert chosen == again
    assert len(chosen) == 2


def test_a_picture_that_occurs_twice_is_held_out_last() -> None:
    for seed in range(10):
        _, held_out = split(_samples("a", "a", "b", "b", "c"), 1, seed)
        assert [sample.picture.digest for sample in held_out] == ["c"]


def test_holding_out_everything_is_refused() -> None:
    with pytest.raises(TrainerError, match=r"validation\.heldOutImages is 2"):
        split(_samples("a", "b"), 2, 0)


def test_two_captions_of_one_picture_are_refused_by_name(tmp_path: Path) -> None:
    names = ["a.TXT", "a.png", "a.txt"]
    _red().save(tmp_path / "a.png")
    for name in ("a.TXT", "a.txt"):
        (tmp_path / name).write_text(f"from {name}")
    job = JobDocument.model_validate(
        {
            "name": "x",
            "recipe": "sd15",
            "baseModel": {"uri": "file:///base"},
            "dataset": {"uri": "file:///pictures", "minImages": 1},
            "validation": {"heldOutImages": 0},
            "output": {"uri": "file:///out"},
        }
    )
    fetched = FetchedDataset(folder=tmp_path, names=names, oversized=[], orphans=[])
    with pytest.raises(TrainerError, match=r"a\.txt is a second caption beside a\.TXT") as caught:
        build_dataset(fetched, job, min_side_pixels=16, advance=lambda _done, _total: None)
    assert caught.value.reason is Reason.INVALID_CAPTIONS
