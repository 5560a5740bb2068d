"""The contact sheet: one picture from which a person sees whether the LoRA learned.

A module of its own because layout is its whole business; it gets finished pictures and text.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont

from lora_trainer.dataset import Sample
from lora_trainer.pixels import load_pixels
from lora_trainer.sample import Drawn

_TILE = 160
_GAP = 8
_MARGIN = 24
_INK = (28, 30, 34)
_FAINT = (110, 114, 122)
_PAPER = (250, 250, 248)
_TITLE_POINTS, _HEADING_POINTS, _TEXT_POINTS = 24, 18, 14
_COLUMNS = 6
_MAX_TRAINING = 12
# No line shows more, even of the narrowest letters; nothing longer is measured.
_MAX_CHARACTERS = 500


class Font(Protocol):
    """What is asked of a font."""

    def getlength(self, text: str) -> float:
        """Width in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetText:
    """The words on the sheet."""

    title: str
    """First line."""

    subtitle: str
    """Settings and figures, below it."""


def make_sheet(text: SheetText, training: Sequence[Sample], drawn: Sequence[Drawn]) -> Image.Image:
    """Compose the sheet.

    Args:
        text: Title and subtitle.
        training: Training pictures; the first ones are shown.
        drawn: Pairs, those of one prompt beside each other.

    Returns:
        An RGB picture: training pictures on top, then a row of base | LoRA pairs per prompt.
    """
    shown = list(training[:_MAX_TRAINING])
    prompts = [list(pairs) for _, pairs in groupby(drawn, lambda one: one.number)]
    pairs_wide = max((len(pairs) for pairs in prompts), default=0)
    columns = max(_COLUMNS, 2 * pairs_wide)
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    rows = -(-len(shown) // columns)
    height = 2 * _MARGIN + 76 + 34 + rows * (_TILE + _GAP) + len(prompts) * (_TILE + 76)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = _Pen(sheet)
    top = pen.header(text)
    more = f" (first {len(shown)} of {len(training)})" if len(training) > len(shown) else ""
    top = pen.heading(top, f"Training pictures{more}")
    for index, sample in enumerate(shown):
        row, column = divmod(index, columns)
        pen.tile(_scaled(_middle(training_picture(sample))), column, top + row * (_TILE + _GAP))
    top += rows * (_TILE + _GAP) + 10
    for pairs in prompts:
        top = pen.prompt(top, pairs)
    return sheet.crop((0, 0, width, min(height, top + _MARGIN)))


class _Pen:
    """Draws on the sheet from top to bottom."""

    def __init__(self, sheet: Image.Image) -> None:
        self._sheet = sheet
        self._draw = ImageDraw.Draw(sheet)

    def header(self, text: SheetText) -> int:
        self._line(_MARGIN, _MARGIN, text.title, _TITLE_POINTS, _INK)
        self._line(_MARGIN, _MARGIN + 36, text.subtitle, _TEXT_POINTS, _FAINT)
        return _MARGIN + 70

    def heading(self, top: int, text: str) -> int:
        self._line(_MARGIN, top, text, _HEADING_POINTS, _INK)
        return top + 32

    def prompt(self, top: int, pairs: Sequence[Drawn]) -> int:
        words = pairs[0].prompt
        top = self.heading(
            top, f"\N{LEFT DOUBLE QUOTATION MARK}{words}\N{RIGHT DOUBLE QUOTATION MARK}"
        )
        for index, pair in enumerate(pairs):
            for offset, (name, path) in enumerate((("base", pair.base), ("+ LoRA", pair.lora))):
                column = 2 * index + offset
                label = f"{name}, seed {pair.seed}"
                self._line(_x(column), top - 2, label, _TEXT_POINTS, _FAINT)
                self.tile(_shown(path), column, top + 18)
        return top + _TILE + 38

    def tile(self, picture: Image.Image, column: int, top: int) -> None:
        self._sheet.paste(picture, (_x(column), top))

    def _line(
        self, left: int, top: int, text: str, points: int, colour: tuple[int, int, int]
    ) -> None:
        font = ImageFont.load_default(points)
        room = self._sheet.width - left - _MARGIN
        shown = shortened(text, font, room=room)
        self._draw.text((left, top), shown, font=font, fill=colour)


def shortened(text: str, font: Font, *, room: float) -> str:
    """As much of a text as there is room for, with an ellipsis where it was cut.

    Args:
        text: A prompt may be a whole caption file.
        font: Measures it.
        room: Width in pixels.
    """
    if len(text) <= _MAX_CHARACTERS and font.getlength(text) <= room:
        return text

    def cut(count: int) -> str:
        return f"{text[:count].rstrip()}\N{HORIZONTAL ELLIPSIS}"

    counts = range(1, min(len(text), _MAX_CHARACTERS) + 1)
    return cut(bisect_right(counts, room, key=lambda count: font.getlength(cut(count))))


def _x(column: int) -> int:
    return _MARGIN + column * (_TILE + _GAP)


def training_picture(sample: Sample) -> Image.Image:
    """What is trained on of a picture, or of a clip's first frame."""
    return Image.fromarray(load_pixels(sample)[0])


def _middle(picture: Image.Image) -> Image.Image:
    """The middle square of a picture of any shape."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _shown(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return _scaled(_middle(image.convert("RGB")))


def _scaled(image: Image.Image) -> Image.Image:
    """To tile size: small pictures keep their pixels sharp, large ones are averaged."""
    small = max(image.size) < _TILE
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return image.resize((_TILE, _TILE), method)
