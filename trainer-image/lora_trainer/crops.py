"""What part of a picture is trained on, and at which size.

A module of its own because the numbers are wanted in three places that must agree: where pixels
are cut, where a family is told of the cut (SDXL), and in the report.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A picture scaled down, then cut; all figures in pixels."""

    picture_height: int
    """Height of the picture before it was scaled."""

    picture_width: int
    """Width of the picture before it was scaled."""

    scaled_height: int
    """Height after scaling, before the cut."""

    scaled_width: int
    """Width after scaling, before the cut."""

    top: int
    """Rows cut off above."""

    left: int
    """Columns cut off at the left."""

    height: int
    """Height of what is left."""

    width: int
    """Width of what is left."""

    @property
    def geometry(self) -> tuple[int, int, int, int, int, int]:
        """The figures in the order in which `Batch.geometry` has them."""
        return (
            self.picture_height,
            self.picture_width,
            self.top,
            self.left,
            self.height,
            self.width,
        )

    def mirrored(self) -> "Crop":
        """The same part of the picture's mirror image."""
        return replace(self, left=self.scaled_width - self.left - self.width)


def centre_crop(*, width: int, height: int, to_width: int, to_height: int) -> Crop:
    """Scale until the target is just covered, and keep the middle.

    Args:
        width: Of the picture.
        height: Of the picture.
        to_width: Of the crop.
        to_height: Of the crop.
    """
    scale = max(to_width / width, to_height / height)
    scaled_width = max(to_width, round(width * scale))
    scaled_height = max(to_height, round(height * scale))
    return Crop(
        picture_height=height,
        picture_width=width,
        scaled_height=scaled_height,
        scaled_width=scaled_width,
        top=(scaled_height - to_height) // 2,
        left=(scaled_width - to_width) // 2,
        height=to_height,
        width=to_width,
    )
