"""How long a run's status says something else than its Jobs and pods.

A module of its own because what counts as late is worth a test of its own, without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENDED = frozenset({"Completed", "Failed", "Cancelled"})
LATE_SECONDS = 30.0
NOT_AT_WORK = frozenset({"Pending", "Queued", "Suspended"})
AT_WORK = frozenset({"Starting", "Training", "Validating"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """One run as seen at one look."""

    phase: str | None = None
    held_back: bool = False
    """Whether its user wants it suspended."""
    cancelled: bool = False
    """Whether its user has cancelled it."""
    stores_later: bool = False
    """Whether the status says that storing is tried again."""
    jobs_going: int = 0
    jobs_finished: int = 0
    pods_alive: int = 0
    """Pods that have not ended, those that are being deleted among them."""
    is_training: bool = False
    """Whether a pod's container runs and nobody has taken the pod away."""


def untruth(sight: Sight) -> str | None:
    """What the status does not tell, or None where it is true."""
    if sight.phase in ENDED:
        return "it says it has ended, and a Job goes on" if sight.jobs_going else None
    waits_for_storage = sight.stores_later and not sight.jobs_going
    if waits_for_storage and not sight.cancelled:
        return None
    has_pod, phase = sight.pods_alive > 0, sight.phase
    untrue = {
        "its Jobs have ended": sight.jobs_finished and not sight.jobs_going,
        f"it says {phase}, and its trainer runs": sight.is_training and phase in NOT_AT_WORK,
        f"it says {phase}, and has no pod": not has_pod and phase in AT_WORK,
        "it was cancelled, and nothing of it runs": (
            sight.cancelled and not has_pod and not sight.jobs_going
        ),
        "it was suspended, and has no pod": (
            sight.held_back and not has_pod and phase != "Suspended" and not sight.stores_later
        ),
    }
    return next((what for what, is_so in untrue.items() if is_so), None)


@dataclass(slots=True)
class Delay:
    """The longest time for which a run's status was not true."""

    seconds: float
    untruth: str


class Lateness:
    """Keeps the longest delay of each run."""

    def __init__(self) -> None:
        self.longest: dict[str, Delay] = {}
        self._since: dict[str, tuple[float, str]] = {}

    def look(self, now: float, sights: Mapping[str, Sight]) -> list[str]:
        """Take in what is there.

        Args:
            now: Seconds of a clock that only goes on.
            sights: All runs by name; what is not there can't be wrong.

        Returns:
            Runs that have just become late, for the first time.
        """
        since, late = {}, []
        for name, sight in sights.items():
            told = untruth(sight)
            if told is None:
                continue
            begun, before = self._since.get(name, (now, told))
            # Another untruth is another delay: the status has moved on meanwhile.
            since[name] = (begun, told) if told == before else (now, told)
            seconds = now - since[name][0]
            known = self.longest.get(name, Delay(-1.0, told))
            if seconds > known.seconds:
                self.longest[name] = Delay(seconds, told)
            if known.seconds <= LATE_SECONDS < seconds:
                late.append(name)
        self._since = since
        return late

    def excuse(self, seconds: float) -> None:
        """Take out time in which nobody could have been told."""
        self._since = {name: (begun + seconds, told) for name, (begun, told) in self._since.items()}
