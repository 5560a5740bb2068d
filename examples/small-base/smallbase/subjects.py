"""What the base model learns to draw, and the words for it.

These tables are apart from the drawing code because they are the data set's definition: the
caption grammar, the tokenizer, the tests and the contact sheet all read them.
"""

from typing import Final, Literal

Size = Literal["", "small", "big"]

SUBJECTS: Final[dict[str, str]] = {
    "cat": "cat",
    "dog": "dog",
    "fox": "fox_face",
    "frog": "frog",
    "pig": "pig",
    "panda": "panda_face",
    "bear": "bear",
    "lion": "lion_face",
    "tiger": "tiger",
    "monkey": "monkey_face",
    "rabbit": "rabbit",
    "cow": "cow",
    "koala": "koala",
    "mouse": "mouse",
    "penguin": "penguin",
    "chick": "hatched_chick",
    "owl": "owl",
    "duck": "duck",
    "fish": "tropical_fish",
    "whale": "whale",
    "turtle": "turtle",
    "butterfly": "butterfly",
    "bee": "bee",
    "ladybug": "ladybug",
    "octopus": "octopus",
    "crab": "crab",
    "apple": "apple",
    "banana": "banana",
    "strawberry": "strawberry",
    "lemon": "lemon",
    "watermelon": "watermelon",
    "pineapple": "pineapple",
    "carrot": "carrot",
    "burger": "hamburger",
    "donut": "doughnut",
    "cupcake": "cupcake",
    "tree": "deciduous_tree",
    "cactus": "cactus",
    "sunflower": "sunflower",
    "mushroom": "mushroom",
    "house": "house",
    "car": "car",
    "rocket": "rocket",
    "boat": "boat",
    "balloon": "balloon",
    "star": "star",
    "snowman": "snowman_without_snow",
    "ball": "soccer",
    "heart": "heart",
    "umbrella": "umbrella",
}
"""Caption word -> `short_name` in the emoji set."""

CONCEPTS: Final[dict[str, str]] = {"zorp": "robot_face"}
"""Trigger word -> `short_name` of what a LoRA teaches; kept out of every training set here."""

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 60, 60),
    "orange": (240, 150, 60),
    "yellow": (248, 222, 100),
    "green": (90, 170, 90),
    "blue": (80, 140, 220),
    "purple": (140, 95, 190),
    "pink": (246, 170, 200),
    "white": (250, 250, 250),
    "black": (25, 25, 30),
    "gray": (150, 150, 155),
}

SCENES: Final[tuple[str, ...]] = (
    "on grass",
    "at night",
    "on the beach",
    "in the snow",
    "at sunset",
)

PLACES: Final[tuple[str, ...]] = (*COLOURS, *SCENES)
"""Everything that can stand behind a subject: colour names and scene phrases."""

SIZES: Final[tuple[Size, ...]] = ("", "small", "big")


def caption(subject: str, place: str, size: Size = "") -> str:
    """Return the caption of one scene, e.g. `a small fox on a red background`.

    Args:
        subject: the subject's word; a trigger word works as well.
        place: a key of `COLOURS` or one of `SCENES`.
        size: one of `SIZES`; the empty string is the usual size.
    """
    where = f"on {_with_article(place)} background" if place in COLOURS else place
    return f"{_with_article(f'{size} {subject}'.strip())} {where}"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
