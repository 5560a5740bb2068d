"""Which pictures are nearly the same: re-saved, scaled or slightly edited copies of one another.

A module of its own because it is a measure of its own, with a source: the difference hash of
Neal Krawetz (https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html),
taken along rows and along columns.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

# Of 128 bits. Re-compression and scaling change up to about 6; different photos some 40 to 60.
MAX_DIFFERENT_BITS = 8
# Of 255. Flat pictures have the same bits whatever their colour.
_MAX_COLOUR_DIFFERENCE = 16


@dataclass(frozen=True, slots=True)
class Likeness:
    """What is compared of a picture."""

    bits: int
    """128 bits: whether each of 8 x 8 places is brighter than its right and its lower neighbour."""

    colour: tuple[int, int, int]
    """Mean red, green and blue, 0 to 255."""


def likeness_of(image: Image.Image) -> Likeness:
    """What is compared of a picture.

    Args:
        image: In mode RGB.
    """
    grey = image.convert("L")
    rows = grey.resize((9, 8), Image.Resampling.BOX).tobytes()
    columns = grey.resize((8, 9), Image.Resampling.BOX).tobytes()
    brighter = [rows[9 * y + x] > rows[9 * y + x + 1] for y in range(8) for x in range(8)]
    brighter += [columns[8 * y + x] > columns[8 * (y + 1) + x] for y in range(8) for x in range(8)]
    red, green, blue = image.resize((1, 1), Image.Resampling.BOX).tobytes()
    return Likeness(sum(bit << place for place, bit in enumerate(brighter)), (red, green, blue))


def near_duplicates(likenesses: Sequence[Likeness]) -> list[list[int]]:
    """Groups of pictures that are nearly the same, as indices; only groups of two or more.

    A picture belongs to the group of the first one that it resembles, so that a long series of
    small changes does not become one group.

    Args:
        likenesses: Of all pictures.
    """
    import numpy as np

    if len(likenesses) < 2:
        return []
    low = np.array([one.bits & (1 << 64) - 1 for one in likenesses], dtype=np.uint64)
    high = np.array([one.bits >> 64 for one in likenesses], dtype=np.uint64)
    colours = np.array([one.colour for one in likenesses], dtype=np.int16)
    groups: dict[int, list[int]] = defaultdict(list)
    taken = np.zeros(len(likenesses), dtype=bool)
    for first in range(len(likenesses)):
        if taken[first]:
            continue
        bits = np.bitwise_count(low[first + 1 :] ^ low[first])
        bits += np.bitwise_count(high[first + 1 :] ^ high[first])
        alike = first + 1 + np.flatnonzero(bits <= MAX_DIFFERENT_BITS)
        colour = np.abs(colours[alike] - colours[first]).max(axis=1, initial=0)
        for other in alike[(colour <= _MAX_COLOUR_DIFFERENCE) & ~taken[alike]].tolist():
            groups[first].append(other)
            taken[other] = True
    return [[first, *others] for first, others in groups.items()]
