"""What a month of users asks for: 10,000 runs by 200 people, made from one seed.

A module of its own because these numbers are assumptions, and whoever doubts the simulation should
find them in one place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 30
# GPU-seconds per step as they really are; the policy learns them from runs that end.
SPEEDS = {"sd15": 0.35, "sdxl": 1.1, "flux": 2.8}
START_UP_SECONDS = 240
# Share of each hour of the day (UTC) in the day's runs: people sleep.
HOURS = (1, 1, 1, 1, 1, 1, 2, 4, 8, 10, 10, 9, 7, 9, 10, 10, 9, 7, 5, 4, 3, 2, 2, 1)
# Share of each day of the week; November 2026 begins on a Sunday.
WEEKDAYS = (10, 11, 11, 11, 10, 4, 3)


class Fate(StrEnum):
    """How a run ends if it is let go."""

    COMPLETES = "completes"
    FAILS = "fails"
    CANCELLED = "cancelled"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run as its user means it."""

    uid: str
    user: str
    recipe: str
    gpus: int
    steps: int
    priority: int
    created_at: datetime
    fate: Fate
    share: float
    """How far it comes: 1 for one that completes."""
    seconds: float
    """How long it really holds its GPUs."""
    pool: str
    """Label of the node that it will get."""


def a_month(seed: int, *, runs: int, users: int, days: int = DAYS) -> list[Job]:
    """Runs in the order of their creation; the same seed makes the same month.

    Args:
        seed: Of all chance.
        runs: How many there are.
        users: Among how many people.
        days: From the first of the month on; fewer make the queue of a whole month in less time.
    """
    chance = random.Random(seed)  # noqa: S311 - a simulation, no secret
    # Few ask for much: the k-th user asks 1 / (k + 5) as often as the first.
    weights = [1 / (rank + 5) for rank in range(users)]
    names = chance.choices([f"user-{n:03}" for n in range(users)], weights, k=runs)
    times = sorted(_instant(chance, days) for _ in range(runs))
    return [
        _job(chance, number, user, when)
        for number, (user, when) in enumerate(zip(names, times, strict=True))
    ]


def _instant(chance: random.Random, days: int) -> datetime:
    dates = [START + timedelta(days=day) for day in range(days)]
    day = chance.choices(dates, [WEEKDAYS[each.weekday()] for each in dates])[0]
    hour = chance.choices(range(24), HOURS)[0]
    # Whole seconds, as the API server stamps them: some fall together.
    return day + timedelta(hours=hour, seconds=chance.randrange(3600))


def _job(chance: random.Random, number: int, user: str, when: datetime) -> Job:
    recipe = chance.choices(list(SPEEDS), [4, 5, 3])[0]
    gpus = chance.choices((1, 2, 4, 8), (70, 18, 9, 3))[0]
    steps = chance.choice((500, 1000, 1500, 2000, 3000, 4000))
    fate = chance.choices(list(Fate), (90, 5, 4, 1))[0]
    share = 1.0 if fate is Fate.COMPLETES else chance.random()
    # Machines and pictures differ: the same recipe takes a tenth more or less.
    training = SPEEDS[recipe] * steps / gpus * chance.lognormvariate(0, 0.1)
    return Job(
        uid=f"{number:05}",
        user=user,
        recipe=recipe,
        gpus=gpus,
        steps=steps,
        priority=chance.choices((0, 30, 100), (80, 15, 5))[0],
        created_at=when,
        fate=fate,
        share=share,
        seconds=START_UP_SECONDS + training * share,
        pool=chance.choice(("reserved", "spot")),
    )
