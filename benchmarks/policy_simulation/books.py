"""What the simulation itself knows of its runs, and what it holds against the policy's promises.

A module of its own because whatever the policy promises is checked by these books, and not by what
the policy says of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from benchmarks.policy_simulation.outcome import Outcome
from benchmarks.policy_simulation.workload import START_UP_SECONDS, Job

from lora_api.policy import MAX_PRIORITY, TrainingPolicySpec
from lora_operator.policy.money import NOTHING, cost_of, price_on
from lora_operator.policy.queue import Waiting, Working
from lora_operator.policy.space import Namespace


class BrokenPromiseError(AssertionError):
    """The policy did what it promises not to do."""


@dataclass(slots=True)
class Truth:
    """One run as it really is."""

    job: Job
    priority: int
    started_at: datetime | None = None
    """Since when it has its GPUs; None where it has none."""
    first_started_at: datetime | None = None
    trained: float = 0.0
    """Seconds of training that are in a checkpoint."""
    periods: list[tuple[datetime, datetime]] = field(default_factory=list)
    """When it had its GPUs, and has them no more."""
    is_suspended: bool = False
    """Whether its user holds it back."""
    is_stopping: bool = False
    """Whether it writes the checkpoint that it is suspended at."""
    turn: int = 0
    """Which start it is; what was to happen in an earlier one happens no more."""

    def seconds_left(self) -> float:
        """Until its end, if it starts now."""
        return START_UP_SECONDS + self.job.training_seconds - self.trained

    def gpu_seconds(self, now: datetime) -> int:
        """What it has held until now."""
        held = sum(int((end - begin).total_seconds()) for begin, end in self.periods)
        if self.started_at is not None:
            held += int((now - self.started_at).total_seconds())
        return self.job.gpus * held

    def stop(self, now: datetime) -> None:
        """It has its GPUs no more, and its training up to now is in a checkpoint."""
        if self.started_at is None:
            raise BrokenPromiseError(f"{self.job.uid} is stopped and does not run")
        held = (now - self.started_at).total_seconds()
        self.trained += max(0.0, held - START_UP_SECONDS)
        self.periods.append((self.started_at, now))
        self.started_at, self.is_stopping = None, False
        self.turn += 1


class Books:
    """All runs, who counts, and what must hold at every moment."""

    def __init__(self, jobs: Iterable[Job], policy: TrainingPolicySpec, outcome: Outcome) -> None:
        self.runs = {job.uid: Truth(job=job, priority=job.priority) for job in jobs}
        self.outcome = outcome
        self.closed_at: datetime | None = None
        """When the budget was seen to be spent."""
        self._policy = policy
        self._counted: Counter[str] = Counter()

    def count(self, user: str) -> None:
        """A run has its place in the month."""
        self._counted[user] += 1
        limit = self._policy.monthly_trainings_per_user
        if limit is not None and self._counted[user] > limit:
            raise BrokenPromiseError(f"{user} has {self._counted[user]} of {limit} runs")

    def give_back(self, user: str) -> None:
        """A run gives its place back."""
        self._counted[user] -= 1

    def check_limit_was_reached(self, user: str) -> None:
        """Nobody is refused with places left."""
        if self._counted[user] != self._policy.monthly_trainings_per_user:
            raise BrokenPromiseError(f"{user} was refused with places left")

    def check_concurrency(self) -> None:
        """GPUs in use, and runs at work of each user, by what really runs."""
        at_work = [truth.job for truth in self.runs.values() if truth.started_at is not None]
        gpus = sum(job.gpus for job in at_work)
        self.outcome.most_gpus = max(self.outcome.most_gpus, gpus)
        limit = self._policy.max_concurrent_gpus
        if limit is not None and gpus > limit:
            raise BrokenPromiseError(f"{gpus} GPUs of {limit} are in use")
        each = self._policy.max_concurrent_trainings_per_user
        for user, count in Counter(job.user for job in at_work).items():
            if each is not None and count > each:
                raise BrokenPromiseError(f"{user} has {count} of {each} runs at work")

    def check_may_start(self, uid: str) -> None:
        """Nobody starts for whom there is no money, whom its user holds back, or who runs."""
        truth = self.runs[uid]
        if self.closed_at is not None:
            raise BrokenPromiseError(f"{uid} started after the budget was spent")
        if truth.is_suspended or truth.started_at is not None:
            raise BrokenPromiseError(f"{uid} started while its user held it back, or twice")

    def check_room_is_made_for_a_better(self, victim: Working, head: Waiting | None) -> None:
        """Who makes room is below whom it makes room for, by class, and really has the GPUs."""
        truth = self.runs[victim.uid]
        if head is None:
            raise BrokenPromiseError(f"{victim.uid} makes room for nobody")
        if truth.priority >= self.runs[head.uid].priority:
            raise BrokenPromiseError(f"{victim.uid} makes room for {head.uid}, its equal or less")
        if truth.started_at is None:
            raise BrokenPromiseError(f"{victim.uid} makes room and holds none")

    def check_nobody_starves(
        self, first: Waiting, left: Iterable[Waiting], working: Iterable[Working], now: datetime
    ) -> None:
        """Who goes first has not joined too long after anybody who goes on waiting.

        But for two: one that is held back by its own user's limit, and one that lacks GPUs and has
        not waited for `backfillSeconds`.
        """
        rules = self._policy.queue
        each = self._policy.max_concurrent_trainings_per_user
        users = Counter(run.user for run in working)
        for old in left:
            younger = (first.waits_since - old.waits_since).total_seconds()
            if old.uid == first.uid or younger <= 0:
                continue
            if each is not None and users[old.user] >= each:
                continue
            if (now - old.waits_since).total_seconds() < rules.backfill_seconds:
                self.outcome.backfilled += 1
                continue
            self.outcome.latest_passer = max(self.outcome.latest_passer, younger)
            # A class that was changed counts from then on.
            if younger > (MAX_PRIORITY + 1 - self.runs[old.uid].priority) * rules.aging_seconds:
                raise BrokenPromiseError(f"{first.uid} passed {old.uid}, {younger:.0f} s older")

    def close(self, space: Namespace) -> None:
        """At the end, ledger and truth agree in places and GPU-seconds, and the budget was kept."""
        ledgers = space.ledgers.values()
        self.outcome.spent = sum((ledger.spent for ledger in ledgers), NOTHING)
        places: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        for ledger in ledgers:
            places.update({user: count for user, count in ledger.places.items() if count})
            for user, total in ledger.users.items():
                seconds[user] += total.gpu_seconds
            for entry in ledger.runs.values():
                seconds[entry.user] += entry.gpu_seconds
        if +places != +self._counted:
            raise BrokenPromiseError("the ledger and what happened differ")
        held: Counter[str] = Counter()
        for truth in self.runs.values():
            held[truth.job.user] += truth.gpu_seconds(truth.job.created_at)
        if +seconds != +held:
            raise BrokenPromiseError("GPU-seconds were lost, or counted twice")
        budget = self._policy.monthly_budget
        if self.closed_at is None or budget is None:
            return
        self.outcome.at_work_when_spent = self._cost_of_those_at_work(self.closed_at)
        over = self.outcome.spent - Decimal(budget.amount)
        if over > self.outcome.at_work_when_spent:
            raise BrokenPromiseError(f"overspent by {over}")

    def price(self, job: Job) -> Decimal:
        """Of a GPU-hour on the job's node."""
        return price_on(self._policy.prices, {"product": job.product})

    def _cost_of_those_at_work(self, when: datetime) -> Decimal:
        """What had its GPUs at an instant, from the start of that to its end."""
        total = NOTHING
        for truth in self.runs.values():
            for begin, end in truth.periods:
                if begin <= when <= end:
                    seconds = truth.job.gpus * int((end - begin).total_seconds())
                    total += cost_of(seconds, self.price(truth.job))
        return total
