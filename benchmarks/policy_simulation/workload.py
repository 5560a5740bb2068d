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
# Seconds of a step at 512 x 512 pixels as they really are; the policy learns them from runs that
# end. A step works on as many pictures on each GPU, however many GPUs there are.
SPEEDS = {"sd15": 0.2, "sdxl": 0.15, "flux": 0.4}
RESOLUTIONS = {"sd15": (512, 768), "sdxl": (768, 1024), "flux": (512, 1024)}
START_UP_SECONDS = 240
# Nodes by their label `pool`: name of their GPUs, and how much longer they take.
POOLS = {"reserved": ("A100", 1.0), "spot": ("L4", 1.6)}
PRIORITIES = (0, 30, 100)
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
    resolution: int
    training_seconds: float
    """How long it really trains until its end, on the node that it will get."""
    pool: str
    """Label of that node."""
    suspended_after: float | None = None
    """Seconds from its creation on until its user holds it back, where that happens."""
    suspended_for: float = 0.0
    """Seconds until its user lets it go on."""
    changed_after: float | None = None
    """Seconds from its creation on until its user gives it another class, where that happens."""
    changed_to: int = 0
    """Weight of that class."""

    @property
    def product(self) -> str:
        """Name of the GPUs that it will get."""
        return POOLS[self.pool][0]

    @property
    def step_work(self) -> int:
        """Blocks of 64 x 64 pixels in a step, as the operator counts them."""
        return (self.resolution // 64) ** 2


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
    resolution = chance.choice(RESOLUTIONS[recipe])
    pool = chance.choice(list(POOLS))
    # Machines and pictures differ: the same recipe takes a tenth more or less.
    each = SPEEDS[recipe] * (resolution / 512) ** 2 * POOLS[pool][1]
    training = each * steps * chance.lognormvariate(0, 0.1)
    is_suspended, is_changed = chance.random() < 0.04, chance.random() < 0.04
    return Job(
        uid=f"{number:05}",
        user=user,
        recipe=recipe,
        gpus=gpus,
        steps=steps,
        priority=chance.choices(PRIORITIES, (80, 15, 5))[0],
        created_at=when,
        fate=fate,
        share=share,
        resolution=resolution,
        training_seconds=training * share,
        pool=pool,
        suspended_after=chance.uniform(0, 4 * 3600) if is_suspended else None,
        suspended_for=chance.uniform(600, 12 * 3600),
        changed_after=chance.uniform(0, 2 * 3600) if is_changed else None,
        changed_to=chance.choice(PRIORITIES),
    )
