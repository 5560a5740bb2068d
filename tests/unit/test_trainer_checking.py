"""All faults at once, or without the bad files; what is worth knowing of the good ones."""

from pathlib import Path

import pytest
from PIL import Image
from tests.datasets import ADataset, a_dataset, a_picture

from lora_api.reasons import Reason


def _spoilt(root: Path) -> ADataset:
    """Three good pictures and four files that can't be used."""
    dataset = a_dataset(root).with_pictures(3)
    (dataset.folder / "empty.png").touch()
    (dataset.folder / "text.jpg").write_text("no picture")
    a_picture(8, 40, 40).save(dataset.folder / "small.png")
    a_picture(9).save(dataset.folder / "worded.png")
    (dataset.folder / "worded.txt").write_bytes(b"\xff\xfe")
    return dataset


BAD = ("empty.png", "small.png", "text.jpg", "worded.txt")


def test_all_bad_files_are_named_at_once_with_the_cure(tmp_path: Path) -> None:
    error = _spoilt(tmp_path).refusal()
    assert error.reason is Reason.INVALID_IMAGES
    assert all(name in error.message for name in BAD)
    assert error.message.endswith("or set dataset.onInvalidFiles: Skip")


def test_with_skip_the_run_goes_on_without_the_bad_files_and_names_them(tmp_path: Path) -> None:
    dataset = _spoilt(tmp_path).having(onInvalidFiles="Skip").checked()
    assert len(dataset.samples) == 3
    assert sorted(fault.name for fault in dataset.skipped) == sorted(BAD)


def test_with_skip_too_few_good_ones_are_still_too_few(tmp_path: Path) -> None:
    error = _spoilt(tmp_path).having(onInvalidFiles="Skip", minImages=4).refusal()
    assert error.reason is Reason.TOO_FEW_IMAGES
    assert "3 pictures lie" in error.message
    assert all(name in error.message for name in (*BAD, "dataset.minImages is 4"))


def test_only_bad_captions_are_invalid_captions(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(2)
    for name in ("p0.txt", "p0.TXT"):
        (dataset.folder / name).write_text(f"from {name}")
    error = dataset.refusal()
    assert error.reason is Reason.INVALID_CAPTIONS
    assert "p0.txt is a second caption of p0.png beside p0.TXT" in error.message


def test_small_files_are_refused_after_what_they_are(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(1).having(minFileBytes=100_000)
    (dataset.folder / "text.png").write_text("no picture")
    message = dataset.refusal().message
    assert "p0.png has " in message
    assert "less than 100000 (dataset.minFileBytes)" in message
    assert "text.png is not a JPG, PNG or WebP picture" in message


def test_a_jpeg_called_png_is_fine_and_reported(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path)
    a_picture(1).save(dataset.folder / "photo.png", "JPEG")
    assert dataset.checked().warnings == ["photo.png: holds a JPEG picture"]


def test_exact_and_near_copies_are_reported_apart(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(6, width=200, height=150)
    (dataset.folder / "copy.png").write_bytes((dataset.folder / "p0.png").read_bytes())
    a_picture(1, 120, 90).save(dataset.folder / "scaled.jpg", quality=60)
    assert dataset.checked().warnings == [
        "copy.png = p0.png: the same picture",
        "p1.png = scaled.jpg: nearly the same picture",
    ]


def test_flat_pictures_of_different_colours_are_not_alike(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path)
    for colour in ("red", "green", "blue", "white"):
        Image.new("RGB", (96, 96), colour).save(dataset.folder / f"{colour}.png")
    assert dataset.checked().warnings == []


def test_pictures_keep_their_shape_in_buckets_or_become_squares(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).of("sd15", 192)
    a_picture(1, 400, 220).save(dataset.folder / "wide.png")
    a_picture(2, 300, 300).save(dataset.folder / "square.png")
    wide = dataset.having(minSidePixels=64)
    assert {sample.shape for sample in wide.checked().samples} == {(1, 128, 256), (1, 192, 192)}
    squares = wide.having(aspectBuckets=False).checked()
    assert {sample.shape for sample in squares.samples} == {(1, 192, 192)}


def test_shuffling_flipping_and_repeats_are_for_training_alone(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(4)
    for number in range(4):
        (dataset.folder / f"p{number}.txt").write_text(f"zorp, {number}, red, round")
    asked = dataset.having(shuffleCaptions=True, flip=True, repeats=5)
    checked = ADataset(asked.root, asked.settings, held_out=1).checked()
    assert checked.epoch_size == 15
    assert all(len(one.captions) == 6 and len(one.sights) == 2 for one in checked.training)
    assert all(len(one.captions) == len(one.sights) == 1 for one in checked.held_out)


@pytest.mark.parametrize("name", ["b.heic", "b.avif"])
def test_pictures_of_phones_are_told_to_be_converted(name: str, tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path)
    brand = name[-4:].encode()
    (dataset.folder / name).write_bytes(b"\x00\x00\x00\x18ftyp" + brand + bytes(40))
    assert f"{name} is a HEIC or AVIF picture; convert it" in dataset.refusal().message
