"""What a step may see of a sample: its shape, its mirror image, its caption in other orders."""

from pathlib import Path

from lora_trainer.crops import Crop, centre_crop
from lora_trainer.dataset import Dataset, Sample
from lora_trainer.pictures import Picture


def _sample(**changes: object) -> Sample:
    facts: dict[str, object] = {
        "picture": Picture(
            name="a.png", path=Path("a.png"), digest="a", width=90, height=64, converted=None
        ),
        "caption": "zorp, red, round",
        "crop": Crop(
            picture_height=128,
            picture_width=180,
            scaled_height=64,
            scaled_width=90,
            top=0,
            left=3,
            height=64,
            width=64,
        ),
        **changes,
    }
    return Sample(**facts)  # type: ignore[arg-type]


def test_the_shape_of_a_sample_is_frames_height_and_width_of_its_crop() -> None:
    crop = Crop(
        picture_height=128,
        picture_width=260,
        scaled_height=64,
        scaled_width=130,
        top=0,
        left=1,
        height=64,
        width=128,
    )
    assert _sample(crop=crop).shape == (1, 64, 128)


def test_a_plain_sample_is_always_seen_as_it_is() -> None:
    sample = _sample()
    assert {sample.variant(number) for number in range(9)} == {sample}


def test_a_mirror_image_is_cut_at_the_mirrored_place() -> None:
    plain, mirror = _sample(may_flip=True).sights
    assert (plain.mirrored, mirror.mirrored) == (False, True)
    assert (plain.crop.left, mirror.crop.left) == (3, 90 - 3 - 64)


def test_every_side_is_seen_with_every_wording_equally_often() -> None:
    sample = _sample(may_flip=True, shuffled=("zorp, round, red",))
    seen = [sample.variant(number) for number in range(8)]
    assert sorted((one.mirrored, one.caption) for one in seen) == sorted(
        [(side, words) for side in (False, True) for words in sample.captions] * 2
    )


def test_repeats_make_an_epoch_longer_but_not_the_dataset() -> None:
    dataset = Dataset(training=[_sample()], held_out=[], digest="d", warnings=[], repeats=3)
    assert dataset.epoch_size == 3
    assert len(dataset.samples) == 1


def test_a_family_is_told_the_pictures_own_size_and_where_the_scaled_one_was_cut() -> None:
    crop = centre_crop(width=1500, height=1000, to_width=640, to_height=384)
    assert (crop.scaled_height, crop.scaled_width) == (427, 640)
    assert crop.geometry == (1000, 1500, 21, 0, 384, 640)
