"""Pictures and captions, one file at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lora_api.settings import DatasetSettings
from lora_trainer.buckets import fit
from lora_trainer.captions import (
    MAX_ORDERS,
    CaptionError,
    caption_for,
    orders_of,
    read_caption,
    with_trigger,
)
from lora_trainer.crops import centre_crop
from lora_trainer.dataset import Sample, split
from lora_trainer.errors import TrainerError
from lora_trainer.pictures import Bounds, Picture, PictureError, check_picture, to_rgb
from lora_trainer.pixels import load_pixels

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


WORDS: dict[str, tuple[str | None, dict[str, str], str]] = {
    "no file: the trigger word": (None, {"trigger_word": "zorp"}, "zorp"),
    "no file: the template": (
        None,
        {"trigger_word": "zorp", "caption_template": "a photo of {trigger} outside"},
        "a photo of zorp outside",
    ),
    "no file: a template without the trigger word gets it": (
        None,
        {"trigger_word": "zorp", "caption_template": "a photo"},
        "zorp, a photo",
    ),
    "a file wins over the template": (
        "a cat",
        {"trigger_word": "zorp", "caption_template": "a photo of {trigger}"},
        "zorp, a cat",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_the_caption_of_a_picture(name: str) -> None:
    given, settings, expected = WORDS[name]
    assert caption_for(given, DatasetSettings(uri="file:///x", **settings)) == expected


def test_without_file_trigger_word_and_template_there_is_no_caption() -> None:
    with pytest.raises(CaptionError, match=r"dataset\.triggerWord.*dataset\.captionTemplate"):
        caption_for(None, DatasetSettings(uri="file:///x"))


def test_a_template_with_a_trigger_needs_one() -> None:
    with pytest.raises(ValidationError, match="triggerWord must be set"):
        DatasetSettings(uri="file:///x", caption_template="a {trigger}")


ORDERS: dict[str, tuple[str, int, int]] = {
    "nothing to shuffle": ("zorp", 1, 0),
    "one loose part": ("zorp, red", 1, 0),
    "two loose parts": ("zorp, red, round", 1, 1),
    "all loose": ("a, b, c", 0, 5),
    "many parts have a bounded number of orders": ("zorp, a, b, c, d, e, f", 1, MAX_ORDERS - 1),
}


@pytest.mark.parametrize("name", ORDERS)
def test_captions_are_shuffled_in_a_fixed_number_of_orders(name: str) -> None:
    caption, keep, count = ORDERS[name]
    orders = orders_of(caption, keep=keep)
    assert len(set(orders)) == len(orders) == count
    assert orders == orders_of(caption, keep=keep)
    parts = caption.split(", ")
    for order in orders:
        assert order != caption
        assert order.split(", ")[:keep] == parts[:keep]
        assert sorted(order.split(", ")) == sorted(parts)


def _red(size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, (200, 10, 10))


def _trained_on(picture: Picture, side: int) -> np.ndarray:
    """The picture's pixels as a square."""
    crop = fit(picture.width, picture.height, resolution=side, step=4, keep_shape=False)
    square: np.ndarray = load_pixels(Sample(picture=picture, caption="zorp", crop=crop))[0]
    return square


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
    picture = check_picture(path, name="p", bounds=Bounds(min_side_pixels=60))
    assert (picture.width, picture.height) == (80, 60)
    square = _trained_on(picture, 32)
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8
    assert np.abs(square.astype(int) - (200, 10, 10)).max() < 30


def test_exif_rotation_turns_the_picture_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (80, 60), "black")
    image.paste("white", (0, 0, 80, 20))  # white on top, as the camera stored it
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: top becomes right
    image.save(tmp_path / "a.jpg", exif=exif)
    picture = check_picture(tmp_path / "a.jpg", name="a.jpg", bounds=Bounds(min_side_pixels=16))
    assert (picture.width, picture.height) == (60, 80)
    square = _trained_on(picture, 60)
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
        check_picture(tmp_path / "a.png", name="a.png", bounds=Bounds(min_side_pixels=64))


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
            crop=centre_crop(width=64, height=64, to_width=64, to_height=64),
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
