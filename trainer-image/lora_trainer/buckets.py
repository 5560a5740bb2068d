"""Which size a picture is trained at: groups of equal shape, about as large as the job asks.

A module of its own because it is pure arithmetic with rules that people ask about: sides are
multiples of the family's step, the area is at most resolution x resolution, no side is more than
twice the other, and nothing is ever scaled up. The idea of grouping by shape is NovelAI's
(https://github.com/NovelAI/novelai-aspect-ratio-bucketing).
"""

import math
from functools import lru_cache

from lora_trainer.crops import Crop, centre_crop

# Beyond this, the base models have seen few pictures, and a thin strip teaches little.
MAX_RATIO = 2.0


def fit(width: int, height: int, *, resolution: int, step: int, keep_shape: bool) -> Crop:
    """Scale and crop of a picture.

    Args:
        width: Of the picture, in pixels; at least `step`.
        height: Of the picture, in pixels; at least `step`.
        resolution: Side of the square whose area the crop may have.
        step: What sides are multiples of.
        keep_shape: Whether it stays about as it is; otherwise it becomes a square.
    """
    to_width, to_height = (
        _nearest(width, height, resolution, step)
        if keep_shape
        else (_side(min(width, height, resolution), step),) * 2
    )
    return centre_crop(width=width, height=height, to_width=to_width, to_height=to_height)


@lru_cache
def bucket_sizes(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    """All (width, height) of full size: for each width, the greatest height that the area allows.

    Args:
        resolution: Side of the square whose area none exceeds.
        step: What sides are multiples of.
    """
    sizes = {(_side(resolution, step),) * 2}
    for side in range(step, int(resolution * math.sqrt(MAX_RATIO)) + 1, step):
        other = _side(resolution * resolution // side, step)
        if other >= step and max(side, other) <= MAX_RATIO * min(side, other):
            sizes |= {(side, other), (other, side)}
    return tuple(sorted(sizes))


def _nearest(width: int, height: int, resolution: int, step: int) -> tuple[int, int]:
    """The bucket of the most similar shape; a picture that does not fill it gets its own size."""

    def difference(size: tuple[int, int]) -> tuple[float, int]:
        return abs(math.log(size[0] / size[1] * height / width)), -size[0] * size[1]

    best = min(bucket_sizes(resolution, step), key=difference)
    if best[0] <= width and best[1] <= height:
        return best
    shorter = _side(min(width, height), step)
    longest = min(_side(max(width, height), step), _side(int(shorter * MAX_RATIO), step))
    # Not above the job's area, which is what the memory was planned for.
    longest = max(shorter, min(longest, _side(resolution * resolution // shorter, step)))
    return (longest, shorter) if width >= height else (shorter, longest)


def _side(pixels: int, step: int) -> int:
    return pixels // step * step
