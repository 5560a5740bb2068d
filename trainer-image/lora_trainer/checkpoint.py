"""Training state on disk: whole or absent, newest first, a few kept.

A module of its own because a run may die while one is written; how they are written, found and
forgiven when damaged must not be spread over the loop.
"""

import pickle
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from lora_trainer import log
from lora_trainer.disk import write_bytes


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """All that a resumed run must know to be the same run.

    Random numbers, the learning rate and the sampler's position follow from the step (see
    schedule.py), so the step stands for all of them.
    """

    step: int
    """Steps done."""

    lora: dict[str, torch.Tensor]
    """Trainable parameters by name."""

    optimizer: dict[str, Any]
    """The optimiser's own state."""

    loss: float | None
    """Smoothed loss."""

    refused_in_a_row: int
    """Updates that the finite check refused just before."""

    average: dict[str, torch.Tensor] | None = None
    """Moving average of the parameters, where the job wants one."""

    loss_scale: dict[str, float] | None = None
    """Loss scaling's state, for fp16."""


def save_checkpoint(folder: Path, state: TrainingState, *, keep: int) -> None:
    """Write a checkpoint durably, then drop the oldest ones.

    Args:
        folder: This job's checkpoints.
        state: What to keep.
        keep: Number of checkpoints kept.
    """
    content = {field.name: getattr(state, field.name) for field in fields(state)}
    path = folder / f"step-{state.step:08d}.pt"
    data = BytesIO()  # torch, writing a file itself, reports a full disk as a fault of its own
    torch.save(content, data)
    write_bytes(path, data.getvalue())
    for old in _newest_first(folder)[keep:]:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> TrainingState | None:
    """The newest checkpoint that can be read; None where there is none."""
    for path in _newest_first(folder):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            return TrainingState(**content)
        except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
            log.warning("checkpoint can't be read, trying an older one", file=path, why=error)
    return None


def newest_step(folder: Path) -> int:
    """Steps done at the newest checkpoint, going by its name; 0 where there is none."""
    newest = _newest_first(folder)[:1]
    return int(newest[0].stem.removeprefix("step-")) if newest else 0


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)
