"""The loss curve as a picture: how the training went, at a glance.

A module of its own because it alone needs a plotting library, which takes a second to load: it is
imported when there is something to plot.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from lora_trainer.course import Point
from lora_trainer.disk import write_atomically
from lora_trainer.progress import smoothed

T = TypeVar("T")
# More points than this can't be told apart on the picture.
_MAX_POINTS = 2000


def load_ahead() -> None:
    """Load the plotting library in the background, which takes seconds where it is new."""

    def work() -> None:
        with suppress(Exception):  # who draws will fail with the real error
            import_module("matplotlib.backends.backend_agg")

    threading.Thread(target=work, name="load-ahead", daemon=True).start()


def draw_curve(path: Path, points: Sequence[Point], *, title: str) -> None:
    """Plot loss, smoothed loss and learning rate over the steps.

    Args:
        path: The PNG to write.
        points: The course of the training.
        title: The run's name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.add_subplot()
    steps, values, means = _series(points)
    losses.plot(steps, values, color="#b8c4d6", linewidth=0.8, label="loss")
    losses.plot(steps, means, color="#1f4e99", linewidth=1.8, label="smoothed over 20 steps")
    refused = [point.step for point in points if point.loss is None]
    if refused:
        low = min(values, default=0.0)
        losses.plot(refused, [low] * len(refused), "x", color="#c0392b", label="update left out")
    losses.set_xlabel("step")
    losses.set_ylabel("loss")
    losses.set_title(title, loc="left", parse_math=False)
    losses.margins(x=0)
    rates = losses.twinx()
    shown = _thinned(points)
    rates.plot(
        [point.step for point in shown],
        [point.learning_rate for point in shown],
        color="#7f8c8d",
        linewidth=0.9,
        linestyle="--",
        label="learning rate",
    )
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    losses.legend(handles=[*losses.lines, *rates.lines], loc="upper right", frameon=False)
    write_atomically(
        path,
        lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}),
    )


def _series(points: Sequence[Point]) -> tuple[list[int], list[float], list[float]]:
    """Steps, losses and smoothed losses, of every step or of evenly chosen ones."""
    mean: float | None = None
    known: list[tuple[int, float, float]] = []
    for point in points:
        if point.loss is not None:
            mean = smoothed(mean, point.loss)
            known.append((point.step, point.loss, mean))
    shown = _thinned(known)
    return [one[0] for one in shown], [one[1] for one in shown], [one[2] for one in shown]


def _thinned(points: Sequence[T]) -> list[T]:
    every = max(1, -(-len(points) // _MAX_POINTS))
    return list(points[::every])
