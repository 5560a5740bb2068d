"""Seconds spent in each part of a run, added up as the run goes from part to part.

A module of its own because the parts are finer than the phases, and because a moment that the
cluster itself recorded (a pod's start) is better than the moment at which we looked.
"""

from datetime import datetime
from enum import StrEnum

from lora_api.status import Phase, TimelineStatus


class Part(StrEnum):
    """Parts of a run; each adds to the field of TimelineStatus that is named after it."""

    QUEUED = "queued"
    IMAGE_PULL = "image_pull"
    PREPARE = "prepare"
    TRAIN = "train"
    VALIDATE = "validate"
    UPLOAD = "upload"
    SUSPENDED = "suspended"


_PARTS = {
    Phase.PENDING: Part.QUEUED,
    Phase.QUEUED: Part.QUEUED,
    Phase.TRAINING: Part.TRAIN,
    Phase.VALIDATING: Part.VALIDATE,
    Phase.UPLOADING: Part.UPLOAD,
    Phase.SUSPENDED: Part.SUSPENDED,
}


def part_of(phase: Phase, *, running: bool) -> Part | None:
    """The part that a phase belongs to; None for a run that has ended."""
    if phase is Phase.STARTING:
        return Part.PREPARE if running else Part.IMAGE_PULL
    return _PARTS.get(phase)


def advance(known: TimelineStatus, part: Part | None, at: datetime) -> TimelineStatus:
    """The timeline with `part` as the present one.

    Args:
        known: The timeline so far.
        part: What the run is in now; None once it has ended.
        at: When that began. The part before ends then, too.
    """
    if known.part == part:
        return known
    changes: dict[str, object] = {"part": part, "part_started_at": at if part else None}
    if known.part in set(Part) and known.part_started_at is not None:
        field = f"{known.part}_seconds"
        spent = max(0, int((at - known.part_started_at).total_seconds()))
        changes[field] = getattr(known, field) + spent
    return known.model_copy(update=changes)
