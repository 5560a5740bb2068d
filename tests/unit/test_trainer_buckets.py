"""Which size a picture is trained at: rules that hold for every picture, and examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_trainer.buckets import MAX_RATIO, bucket_sizes, fit

sides = st.integers(64, 5000)
resolutions = st.integers(8, 128).map(lambda eighths: 8 * eighths)
steps = st.sampled_from([8, 16, 32, 64])


@given(sides, sides, resolutions, steps, st.booleans())
def test_a_crop_is_of_whole_steps_inside_the_picture_and_never_scaled_up(
    width: int, height: int, resolution: int, step: int, keep_shape: bool
) -> None:
    crop = fit(width, height, resolution=resolution, step=step, keep_shape=keep_shape)
    assert crop.width % step == crop.height % step == 0
    assert crop.width >= step
    assert crop.height >= step
    assert crop.width * crop.height <= resolution * resolution
    assert max(crop.width, crop.height) <= MAX_RATIO * min(crop.width, crop.height)
    assert crop.scaled_width <= width
    assert crop.scaled_height <= height
    assert 0 <= crop.left <= crop.scaled_width - crop.width
    assert 0 <= crop.top <= crop.scaled_height - crop.height
    # Only what the shape demands is cut off: one of the two axes is used whole.
    assert crop.scaled_width == crop.width or crop.scaled_height == crop.height


@given(sides, sides, resolutions, steps)
def test_a_picture_on_its_side_is_trained_on_its_side(
    width: int, height: int, resolution: int, step: int
) -> None:
    upright = fit(width, height, resolution=resolution, step=step, keep_shape=True)
    aside = fit(height, width, resolution=resolution, step=step, keep_shape=True)
    if width != height:
        assert (upright.width, upright.height) == (aside.height, aside.width)


FITS: dict[str, tuple[tuple[int, int], int, bool, tuple[int, int]]] = {
    "a square photo": ((3000, 3000), 512, True, (512, 512)),
    "a photo of 3 to 2": ((3000, 2000), 512, True, (640, 384)),
    "a photo of 16 to 9": ((1920, 1080), 512, True, (640, 384)),
    "a tall photo": ((1080, 1920), 1024, True, (768, 1344)),
    "a panorama is cut to 2 to 1": ((6000, 1000), 1024, True, (1408, 704)),
    "smaller than its bucket": ((600, 340), 512, True, (576, 320)),
    "a square where no shape is kept": ((1920, 1080), 512, False, (512, 512)),
    "a small square where no shape is kept": ((400, 330), 512, False, (320, 320)),
}


@pytest.mark.parametrize("name", FITS)
def test_where_a_picture_belongs(name: str) -> None:
    (width, height), resolution, keep_shape, expected = FITS[name]
    crop = fit(width, height, resolution=resolution, step=64, keep_shape=keep_shape)
    assert (crop.width, crop.height) == expected


def test_few_buckets_serve_all_full_sized_pictures() -> None:
    assert len(bucket_sizes(1024, 64)) <= 16
    assert bucket_sizes(64, 64) == ((64, 64),)
