"""How late a run's status tells that nothing more will come of its Jobs.

A module of its own because what counts as late is worth a test of its own, without a cluster.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple


class JobSight(NamedTuple):
    """One Job as seen at one look."""

    run: str
    uid: str
    finished: bool


class Lateness:
    """Seconds from the end of a run's last Job to a status that says that the run has ended.

    An earlier Job's end is none of the run's: another Job takes a memory kill further, or stores
    what the first could not.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By run, once it is known."""
        self._ended_at: dict[str, dict[str, float]] = {}

    def look(self, now: float, jobs: Iterable[JobSight], ended_runs: Collection[str]) -> None:
        """Take in what is there.

        Args:
            now: Seconds of a clock that only goes on.
            jobs: All Jobs.
            ended_runs: Runs whose status says that they have ended.
        """
        going = set()
        for job in jobs:
            if job.finished:
                self._ended_at.setdefault(job.run, {}).setdefault(job.uid, now)
            else:
                going.add(job.run)
        for run, ended_at in self._ended_at.items():
            if run in ended_runs and run not in self.seconds and run not in going:
                self.seconds[run] = now - max(ended_at.values())

    def excuse(self, seconds: float) -> None:
        """Take out time in which nobody could have been told."""
        for ended_at in self._ended_at.values():
            for uid in ended_at:
                ended_at[uid] += seconds
