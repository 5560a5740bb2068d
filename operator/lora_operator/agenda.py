"""Which trainers are asked for their progress now: as many as there is time for, when it pays.

A module of its own because it is arithmetic, and the puller is requests. A few trainers are asked
every second. Of thousands each is asked when its next percent is due, which it says itself by its
speed: asked in turn, a status would be late by up to the length of a round.
"""

import math
from collections.abc import Collection

from lora_api.progress import Progress, Stage

ROUND_SECONDS = 1.0
SLOWEST_SECONDS = 30.0
# A few milliseconds of CPU each.
PULLS_PER_SECOND = 200
# Speeds are averages: a moment later rather than a moment too early, which costs another request.
LATER = 1.02
LATER_SECONDS = 0.3
# More than these lead beyond the slowest pace anyhow.
MOST_DOUBLINGS = 5


class Agenda:
    """When each trainer is to be asked next."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._due: dict[str, float] = {}
        self._silences: dict[str, int] = {}

    def take(self, running: Collection[str], now: float) -> set[str]:
        """Who is to be asked now; each of them counts as asked.

        Args:
            running: All pods that could be asked, by uid; whoever is missing is forgotten.
            now: Seconds of a clock that only grows.

        Returns:
            The longest overdue, not more than can be asked in a second.
        """
        self._due = {uid: self._due.get(uid, now) for uid in running}
        self._silences = {uid: n for uid, n in self._silences.items() if uid in self._due}
        overdue = sorted((due, uid) for uid, due in self._due.items() if due <= now)
        taken = {uid for _, uid in overdue[: math.ceil(PULLS_PER_SECOND * ROUND_SECONDS)]}
        for uid in taken:
            self._due[uid] = now + pace(len(running))
        return taken

    def heard(self, uid: str, told: Progress, now: float) -> None:
        """Take in an answer, and with it when there will be news."""
        self._silences.pop(uid, None)
        if uid in self._due:
            self._due[uid] = now + seconds_to_news(told, running=len(self._due))

    def hung(self, uid: str, now: float) -> None:
        """Note that it let the time pass: each time it is asked half as often as before."""
        if uid not in self._due:
            return
        silences = self._silences[uid] = self._silences.get(uid, 0) + 1
        wait = pace(len(self._due)) * 2.0 ** min(silences, MOST_DOUBLINGS)
        self._due[uid] = now + min(SLOWEST_SECONDS, wait)

    def is_silent(self, uid: str) -> bool:
        """Whether it said nothing when it was last asked."""
        return uid in self._silences


def pace(running: int) -> float:
    """Seconds between two questions to a trainer of which nothing is known."""
    return min(SLOWEST_SECONDS, max(ROUND_SECONDS, running / PULLS_PER_SECOND))


def seconds_to_news(told: Progress, *, running: int) -> float:
    """Seconds until a trainer will have something to tell.

    Args:
        told: What it said last.
        running: How many there are.
    """
    usual = pace(running)
    if usual <= ROUND_SECONDS or told.stage is not Stage.TRAIN or not told.steps_per_second:
        return usual
    if told.step >= told.total_steps:
        return usual
    percent = 100 * told.step // told.total_steps
    next_step = math.ceil((percent + 1) * told.total_steps / 100)
    seconds = LATER * (next_step - told.step) / told.steps_per_second + LATER_SECONDS
    return min(SLOWEST_SECONDS, max(ROUND_SECONDS, seconds))
