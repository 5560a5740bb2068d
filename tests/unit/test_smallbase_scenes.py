"""The base model's data set: captions, scenes, and what is kept out of it."""

# ruff: noqa: S311  # random pictures, not secrets

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smallbase.pictures import Pictures
from smallbase.scenes import draw, random_scene, random_texture
from smallbase.subjects import COLOURS, CONCEPTS, PLACES, SCENES, SUBJECTS, Size, caption


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """An emoji set in the package's layout with one plain sprite of its own colour per subject."""
    (tmp_path / "64").mkdir()
    index = []
    for number, name in enumerate([*SUBJECTS.values(), *CONCEPTS.values()]):
        sprite = Image.new("RGBA", (64, 64))
        sprite.paste((number, 255 - number, 200, 255), (4, 8, 60, 56))
        sprite.save(tmp_path / "64" / f"{number}.png")
        entry = {"short_name": name, "image": f"{number}.png", "category": "Objects"}
        index.append({**entry, "has_img_google": True})
    (tmp_path / "emoji.json").write_text(json.dumps(index))
    return Pictures(tmp_path)


@pytest.mark.parametrize(
    ("subject", "place", "size", "expected"),
    [
        pytest.param("fox", "red", "", "a fox on a red background", id="a colour"),
        pytest.param("fox", "at night", "", "a fox at night", id="a scene"),
        pytest.param("apple", "on grass", "", "an apple on grass", id="a vowel"),
        pytest.param("apple", "on grass", "big", "a big apple on grass", id="a size before it"),
        pytest.param("pig", "orange", "", "a pig on an orange background", id="orange"),
    ],
)
def test_a_caption_names_size_subject_and_place(
    subject: str, place: str, size: Size, expected: str
) -> None:
    assert caption(subject, place, size) == expected


def test_there_are_forty_or_more_subjects_and_no_concept_among_them() -> None:
    assert len(SUBJECTS) >= 40
    assert not set(CONCEPTS) & set(SUBJECTS)
    assert not set(CONCEPTS.values()) & set(SUBJECTS.values())


def test_the_same_seed_draws_the_same_scenes(pictures: Pictures) -> None:
    first, second = random.Random(3), random.Random(3)
    for _ in range(20):
        a, b = random_scene(pictures, first), random_scene(pictures, second)
        assert a.caption == b.caption
        assert np.array_equal(np.asarray(a.image), np.asarray(b.image))


def test_another_seed_draws_other_scenes(pictures: Pictures) -> None:
    first, second = random.Random(3), random.Random(4)
    captions = [[random_scene(pictures, rng).caption for _ in range(20)] for rng in (first, second)]
    assert captions[0] != captions[1]


@pytest.mark.parametrize("size", ["", "small", "big"])
@pytest.mark.parametrize("canvas", [64, 128])
def test_a_sprite_lies_inside_the_picture_and_on_the_latent_grid(
    pictures: Pictures, size: Size, canvas: int
) -> None:
    rng = random.Random(0)
    for place in PLACES:
        scene = draw(pictures, subject="cat", place=place, size=size, rng=rng, canvas=canvas)
        assert scene.image.size == (canvas, canvas)
        assert all(0 <= side <= canvas for side in scene.box)
        assert all(side % (4 * canvas // 64) == 0 for side in scene.box)


def test_places_differ_from_each_other(pictures: Pictures) -> None:
    rng = random.Random(0)
    corners = {
        place: np.asarray(draw(pictures, subject="cat", place=place, size="small", rng=rng).image)[
            [1, 62], 1
        ].tobytes()
        for place in (*COLOURS, *SCENES)
    }
    assert len(set(corners.values())) == len(PLACES)


def test_the_autoencoder_never_sees_a_concept(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    original = Pictures.sprite

    def sprite(self: Pictures, short_name: str) -> Image.Image:
        asked.add(short_name)
        return original(self, short_name)

    monkeypatch.setattr(Pictures, "sprite", sprite)
    rng = random.Random(0)
    for _ in range(600):
        random_texture(pictures, rng)
    assert len(asked) > 40
    assert not asked & set(CONCEPTS.values())
