"""Training state on disk: whole or absent, newest first, a few kept.

A module of its own because a run may die while one is written; how they are written, found and
forgiven when damaged must not be spread over the loop.
"""

import hashlib
import os
import pickle
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from lora_trainer import log
from lora_trainer.disk import CHUNK_BYTES, write_bytes

# torch writes ZIP archives and reads them without looking at their checksums. The digest stands in
# the archive's comment: whatever copies the file carries it along, and who knows of none reads on.
_END_OF_ARCHIVE = b"PK\x05\x06"
_NO_COMMENT = bytes(2)
_MARK = b"sha256:"
_SEAL_BYTES = len(_MARK) + 2 * hashlib.sha256().digest_size
_END_BYTES = 22  # the record that ends an archive; its last field is the length of the comment


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
    """Write a checkpoint durably, then drop the oldest ones, and newer ones.

    Newer ones are damaged, or the run had gone on from them; kept, they would push out good ones.

    Args:
        folder: This job's checkpoints.
        state: What to keep.
        keep: Number of checkpoints kept.
    """
    content = {field.name: getattr(state, field.name) for field in fields(state)}
    path = folder / f"step-{state.step:08d}.pt"
    data = BytesIO()  # torch, writing a file itself, reports a full disk as a fault of its own
    torch.save(content, data)
    _seal(data)
    write_bytes(path, data.getvalue())
    found = _newest_first(folder)
    place = found.index(path)
    for other in found[:place] + found[place + keep :]:
        other.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> TrainingState | None:
    """The newest checkpoint that is as it was written; None where there is none.

    One without a digest, of an earlier version, counts if it can be read.
    """
    for path in _newest_first(folder):
        try:
            _refuse_changed(path)
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


def _seal(archive: BytesIO) -> None:
    """Make the digest of all before it the archive's comment."""
    archive.seek(-len(_NO_COMMENT), os.SEEK_END)
    archive.write(_SEAL_BYTES.to_bytes(2, "little"))
    with archive.getbuffer() as whole:
        digest = hashlib.sha256(whole).hexdigest()
    archive.write(_MARK + digest.encode())


def _refuse_changed(path: Path) -> None:
    """Compare a checkpoint with its digest.

    Raises:
        EOFError: It is not what was written.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL_BYTES))
        end = file.read()
        if end[-_END_BYTES:].startswith(_END_OF_ARCHIVE) and end.endswith(_NO_COMMENT):
            return  # an earlier version's
        file.seek(0)
        digest, left = hashlib.sha256(), size - _SEAL_BYTES
        while left > 0 and (chunk := file.read(min(left, CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    if end != _MARK + digest.hexdigest().encode():
        raise EOFError("its sha256 is not that of what was written; check the disk")
