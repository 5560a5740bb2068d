"""What came of a simulated month.

A module of its own because it is filled where things happen, and read where they are told.
"""

from dataclasses import dataclass, field
from decimal import Decimal

from lora_operator.policy.money import NOTHING


@dataclass(slots=True)
class Outcome:
    """Counts, waits and money."""

    seed: int
    runs: int
    users: int
    limit_refusals: int = 0
    budget_refusals: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    deleted: int = 0
    preempted: int = 0
    """Times that a run at work made room for another."""
    suspended: int = 0
    """Times that a user held a run back."""
    reclassed: int = 0
    """Times that a user gave a run another class."""
    held_for_money: int = 0
    """Runs that had begun, made room or were suspended, and found the budget spent."""
    restarts: int = 0
    backfilled: int = 0
    most_gpus: int = 0
    longest_queue: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds in the queue until its first start, of each run that started."""
    estimates: list[tuple[float, float]] = field(default_factory=list)
    """Seconds until the start, as foretold on joining the queue and as it came."""
    costs: list[tuple[Decimal, Decimal]] = field(default_factory=list)
    """What a run was estimated to cost, and what it cost, where it completed in one piece."""
    latest_passer: float = 0.0
    """Most seconds by which a run that passed another (no backfill) had joined later."""
    spent: Decimal = NOTHING
    at_work_when_spent: Decimal = NOTHING
    """Cost of the runs at work when the budget was spent: the most that it may be passed by."""
    decision_seconds: list[float] = field(default_factory=list)
    """Processor time of each run's admission and the release after it."""
