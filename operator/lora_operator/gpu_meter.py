"""What a run's GPUs have been held for until now, whether or not its status was written since.

A module of its own because a status is written when something changes, and a GPU costs as much
while nothing does: in an image pull, in a hung trainer, in a pod of which nobody hears.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lora_api.status import AttemptStatus
from lora_operator.state.views import Observed, Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """GPU-seconds at one moment, and how they grow."""

    gpu_seconds: int
    at: datetime
    gpus: int
    """GPUs that are held at that moment."""

    def until(self, now: datetime) -> int:
        """GPU-seconds at a later moment, if nothing was given back since."""
        return self.gpu_seconds + self.gpus * max(0, int((now - self.at).total_seconds()))


def read_meter(seen: Observed, now: datetime) -> Meter:
    """GPU-seconds of all attempts: what the status says, and what its open attempts held since."""
    now = now.replace(microsecond=0)
    spec, status = seen.run.spec, seen.run.status
    each = spec.resources.gpus if spec is not None else 0
    counted = {attempt.pod_name: attempt for attempt in status.recent_attempts}
    held = [_since_counted(pod, counted.get(pod.name), now, each) for pod in seen.pods]
    placed = [pod for pod in seen.live_pods if pod.scheduled_at is not None]
    return Meter(gpu_seconds=(status.gpu_seconds or 0) + sum(held), at=now, gpus=each * len(placed))


def _since_counted(pod: Pod, attempt: AttemptStatus | None, now: datetime, gpus: int) -> int:
    """What a pod held beyond what the status has of it; an end that it knows is in it for good.

    A run that is given up closes its attempts at once, and its pod may go on for a while.
    """
    until = pod.container.ended_at if pod.has_ended else now
    closed_at = attempt.ended_at if attempt is not None else None
    is_counted = pod.has_ended if attempt is None else _is_until(closed_at, until)
    if is_counted or pod.scheduled_at is None or until is None:
        return 0
    already = (attempt.gpu_seconds or 0) if attempt is not None else 0
    return max(0, gpus * int((until - pod.scheduled_at).total_seconds()) - already)


def _is_until(closed_at: datetime | None, until: datetime | None) -> bool:
    return closed_at is not None and (until is None or until <= closed_at)
