"""TensorBoard event files of a finished training, for those who compare runs there.

A module of its own because it alone needs the writer's library, and only where a job asks for it.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_trainer.course import Point


def write_events(folder: Path, points: Sequence[Point], *, scores: Mapping[str, float]) -> None:
    """Write the course and the scores as scalars.

    Args:
        folder: Where the event file goes; what an earlier attempt left there is replaced.
        points: The course of the training.
        scores: Figures of the finished LoRA, by tag.
    """
    from tensorboardX import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    writer = SummaryWriter(logdir=str(folder))
    for point in points:
        if point.loss is not None:
            writer.add_scalar("train/loss", point.loss, point.step, walltime=point.unix_seconds)
        writer.add_scalar(
            "train/learning_rate", point.learning_rate, point.step, walltime=point.unix_seconds
        )
    last = points[-1] if points else None
    for tag, value in scores.items():
        writer.add_scalar(
            tag, value, last.step if last else 0, walltime=last.unix_seconds if last else None
        )
    writer.close()
