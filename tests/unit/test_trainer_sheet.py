"""The contact sheet's words: as many as there is room for, however many there are."""

import pytest

from lora_trainer.sheet import shortened


class AFont:
    """Each character is ten pixels wide; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def getlength(self, text: str) -> float:
        assert len(text) < 1000, "measuring takes time in proportion to the text"
        self.asked += 1
        return 10.0 * len(text)


# Text, room in pixels, what is shown.
TEXTS: dict[str, tuple[str, float, str]] = {
    "one that fits": ("a zorp", 60, "a zorp"),
    "one a character too long": ("a zorps", 60, "a zor…"),
    "one cut at a blank": ("a zorp on grass", 80, "a zorp…"),
    "nothing": ("", 60, ""),
    "one with room for a character": ("zorp", 10, "…"),
    "a book": ("z" * 16_240, 100, "z" * 9 + "…"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_line_is_as_long_as_there_is_room_and_says_where_it_was_cut(name: str) -> None:
    text, room, shown = TEXTS[name]
    assert shortened(text, AFont(), room=room) == shown


def test_a_long_text_is_measured_a_few_times_only() -> None:
    font = AFont()
    shortened("z" * 16_240, font, room=1000)
    assert font.asked <= 12
