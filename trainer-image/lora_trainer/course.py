"""The course of a training, step by step, for the curve and TensorBoard.

A module of its own because it must survive what the training survives: it is a file that is made
durable before each checkpoint and cut back to the step that a restart begins at.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_trainer.disk import write_bytes

COURSE = "course.csv"
_COLUMNS = "step,loss,learning_rate,unix_seconds\n"


@dataclass(frozen=True, slots=True)
class Point:
    """One optimiser step."""

    step: int
    """Its number, from 1."""

    loss: float | None
    """Its loss; None where the update was refused."""

    learning_rate: float
    """Its learning rate."""

    unix_seconds: float
    """When it was done."""


class Course:
    """Records steps as lines of comma-separated values.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: list[str] = []

    def began(self, step: int) -> None:
        """Keep what was recorded up to this step."""
        kept = [_line(point) for point in self.points() if point.step <= step]
        write_bytes(self._path, (_COLUMNS + "".join(kept)).encode())
        self._unwritten.clear()

    def applied(self, step: int) -> None:
        """The figures come by themselves."""

    def stepped(self, step: int, *, loss: float | None, learning_rate: float) -> None:
        """Record a step; it is in memory until the next checkpoint."""
        self._unwritten.append(_line(Point(step, loss, learning_rate, time.time())))

    def saving(self, step: int) -> None:
        """Make durable what leads up to the checkpoint."""
        with self._path.open("a", encoding="ascii") as file:
            file.writelines(self._unwritten)
            file.flush()
            os.fsync(file.fileno())
        self._unwritten.clear()

    def saved(self, step: int) -> None:
        """Nothing is left to do."""

    def points(self) -> list[Point]:
        """What the file has, without lines that a kill cut short."""
        try:
            text = self._path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return []
        return list(_points(text))


def _line(point: Point) -> str:
    loss = "" if point.loss is None else repr(point.loss)
    return f"{point.step},{loss},{point.learning_rate!r},{point.unix_seconds:.3f}\n"


def _points(text: str) -> Iterator[Point]:
    last = 0
    for line in text.splitlines(keepends=True)[1:]:
        fields = line.split(",")
        if len(fields) != 4 or not line.endswith("\n"):
            continue
        try:
            loss = float(fields[1]) if fields[1] else None
            point = Point(int(fields[0]), loss, float(fields[2]), float(fields[3]))
        except ValueError:
            continue
        if point.step > last:
            yield point
            last = point.step
