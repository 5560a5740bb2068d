"""A month of one namespace, played through the operator's own policy code.

A module of its own because a short month is also a test. Whatever the policy promises is checked at
each step, against what the simulation knows and not against what the policy says of itself.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum

from benchmarks.policy_simulation.workload import Fate, Job

from lora_api.policy import MAX_PRIORITY, TrainingPolicySpec
from lora_api.policy_ledger import RunState, TrainingLedgerSpec
from lora_operator.policy.forecast import FORESEEN, forecast
from lora_operator.policy.gate import Applicant, Deferred, Namespace, ask, forget, note, release
from lora_operator.policy.ledger import Sighting
from lora_operator.policy.ledger_document import read_ledger, write_ledger
from lora_operator.policy.limits import Request
from lora_operator.policy.money import NOTHING, cost_of, price_on
from lora_operator.policy.queue import Waiting


class Happens(IntEnum):
    """What happens at an instant; those of one instant in this order."""

    ENDS = 0
    ASKS = 1


class BrokenPromiseError(AssertionError):
    """The policy did what it promises not to do."""


@dataclass(slots=True)
class Outcome:
    """What came of the month."""

    seed: int
    runs: int
    users: int
    limit_refusals: int = 0
    budget_refusals: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    deleted: int = 0
    restarts: int = 0
    backfilled: int = 0
    most_gpus: int = 0
    longest_queue: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds from creation to start, of each run that started."""
    estimates: list[tuple[float, float]] = field(default_factory=list)
    """Seconds until the start, as foretold on joining the queue and as it came."""
    latest_passer: float = 0.0
    """Most seconds by which a run that passed another (no backfill) was younger."""
    spent: Decimal = NOTHING
    at_work_when_spent: Decimal = NOTHING
    """Cost of the runs at work when the budget was spent: the most that it may be passed by."""
    decision_seconds: list[float] = field(default_factory=list)
    """Processor time of each run's admission and the release after it."""


class Month:
    """The namespace, the runs as they really are, and the clock."""

    def __init__(
        self, jobs: list[Job], policy: TrainingPolicySpec, *, seed: int, users: int
    ) -> None:
        self.outcome = Outcome(seed=seed, runs=len(jobs), users=users)
        self._policy = policy
        self._space = Namespace(policy=policy)
        self._jobs = {job.uid: job for job in jobs}
        self._started: dict[str, datetime] = {}
        self._counted: dict[str, int] = {}
        self._foretold: dict[str, datetime] = {}
        self._closed_at: datetime | None = None
        self._events: list[tuple[datetime, Happens, str]] = [
            (job.created_at, Happens.ASKS, job.uid) for job in jobs
        ]
        heapq.heapify(self._events)

    def play(self) -> Outcome:
        """The whole month, until the last run has ended.

        Raises:
            BrokenPromiseError: A promise of the policy was broken.
        """
        steps = 0
        while self._events:
            now, what, uid = heapq.heappop(self._events)
            steps += 1
            self._look_at_all(now)
            if what is Happens.ENDS:
                self._end(uid, now)
                self._release(now)
            else:
                self._arrive(uid, now)
            if steps % 500 == 0:
                self._crash()
        if self._space.waiting or self._space.working:
            raise BrokenPromiseError(f"never started: {sorted(self._space.waiting)}")
        self._close_books()
        return self.outcome

    def _arrive(self, uid: str, now: datetime) -> None:
        job = self._jobs[uid]
        run = Applicant(
            uid=uid,
            name=uid,
            request=Request(user=job.user, recipe=job.recipe, gpus=job.gpus, steps=job.steps),
            created_at=job.created_at,
            priority=job.priority,
        )
        begun = time.process_time()
        self._space, verdict = ask(self._space, run)
        spent = time.process_time() - begun
        if isinstance(verdict, Deferred):
            raise BrokenPromiseError(verdict.message)
        if verdict is not None:
            if verdict.reason == "MonthlyLimitReached":
                self.outcome.limit_refusals += 1
                self._check_limit_was_reached(job)
            else:
                self.outcome.budget_refusals += 1
            self.outcome.decision_seconds.append(spent)
            return
        self._counted[job.user] = self._counted.get(job.user, 0) + 1
        limit = self._policy.monthly_trainings_per_user
        if limit is not None and self._counted[job.user] > limit:
            raise BrokenPromiseError(f"{job.user} has {self._counted[job.user]} of {limit} runs")
        begun = time.process_time()
        self._release(now)
        self.outcome.decision_seconds.append(spent + time.process_time() - begun)
        if uid in self._space.waiting and int(uid) % 7 == 0:
            self._foretell(uid, now)

    def _release(self, now: datetime) -> None:
        before = self._space
        released = release(before, now)
        self._space = released.namespace
        for run, _ in released.refused:
            self.outcome.budget_refusals += 1
            self._counted[run.user] -= 1
        gone = {run.uid for run in released.started}
        left = [run for run in self._space.waiting.values() if run.uid not in gone]
        for run in released.started:
            self._start(run, now, left)
        self.outcome.longest_queue = max(self.outcome.longest_queue, len(self._space.waiting))
        self._check_concurrency()

    def _start(self, run: Waiting, now: datetime, left: list[Waiting]) -> None:
        job = self._jobs[run.uid]
        if self._closed_at is not None:
            raise BrokenPromiseError(f"{run.uid} started after the budget was spent")
        self._check_nobody_starves(run, left, now)
        self._started[run.uid] = now
        self.outcome.waits.append((now - run.created_at).total_seconds())
        if run.uid in self._foretold:
            foretold = (self._foretold[run.uid] - run.created_at).total_seconds()
            self.outcome.estimates.append((foretold, self.outcome.waits[-1]))
        heapq.heappush(
            self._events, (now + timedelta(seconds=round(job.seconds)), Happens.ENDS, run.uid)
        )

    def _end(self, uid: str, now: datetime) -> None:
        job = self._jobs[uid]
        if job.fate is Fate.DELETED:
            self.outcome.deleted += 1
            self._space = forget(self._space, uid, created_at=job.created_at)
            return
        state = RunState.COUNTED
        steps = int(job.steps * job.share)
        if job.fate is Fate.FAILS:
            self.outcome.failed += 1
            state = RunState.RETURNED
        elif job.fate is Fate.CANCELLED:
            self.outcome.cancelled += 1
            state = RunState.COUNTED if steps else RunState.RETURNED
        else:
            self.outcome.completed += 1
        if state is RunState.RETURNED:
            self._counted[job.user] -= 1
        for accounted in (False, True):  # the ledger first, then the run's own status
            self._space = note(
                self._space,
                uid,
                self._sight(job, now, state, steps),
                created_at=job.created_at,
                accounted=accounted,
            )

    def _look_at_all(self, now: datetime) -> None:
        for uid in self._space.working:
            job = self._jobs[uid]
            seen = self._sight(job, now, RunState.RUNNING, 0)
            self._space = note(self._space, uid, seen, created_at=job.created_at)
        budget = self._policy.monthly_budget
        if budget is None or self._closed_at is not None:
            return
        if self._spent() >= Decimal(budget.amount):
            self._closed_at = now

    def _sight(self, job: Job, now: datetime, state: RunState, steps: int) -> Sighting:
        return Sighting(
            user=job.user,
            recipe=job.recipe,
            gpus=job.gpus,
            state=state,
            steps=steps,
            gpu_seconds=job.gpus * int((now - self._started[job.uid]).total_seconds()),
            per_gpu_hour=price_on(self._policy.prices, {"pool": job.pool}),
        )

    def _foretell(self, uid: str, now: datetime) -> None:
        waiting = tuple(self._space.waiting.values())
        expected = forecast(waiting, tuple(self._space.working.values()), self._policy, now)
        if uid in expected:
            self._foretold[uid] = expected[uid]
        elif len(waiting) <= FORESEEN and all(run.seconds is not None for run in waiting):
            known = all(run.ends_at is not None for run in self._space.working.values())
            if known:
                raise BrokenPromiseError(f"no estimate for {uid}, and everything is known")

    def _crash(self) -> None:
        """The next leader has the ledger's text alone; who waits and runs, it sees in the runs."""
        self.outcome.restarts += 1
        ledgers = {}
        for month, ledger in self._space.ledgers.items():
            text = write_ledger(ledger).model_dump_json(by_alias=True)
            ledgers[month] = read_ledger(TrainingLedgerSpec.model_validate_json(text))
            if ledgers[month].spent != ledger.spent:
                raise BrokenPromiseError("money was lost in a restart")
        self._space = Namespace(
            policy=self._policy,
            ledgers=ledgers,
            waiting=self._space.waiting,
            working=self._space.working,
        )

    def _spent(self) -> Decimal:
        return sum((ledger.spent for ledger in self._space.ledgers.values()), NOTHING)

    def _check_limit_was_reached(self, job: Job) -> None:
        if self._counted.get(job.user, 0) != self._policy.monthly_trainings_per_user:
            raise BrokenPromiseError(f"{job.user} was refused with places left")

    def _check_concurrency(self) -> None:
        at_work = [self._jobs[uid] for uid in self._space.working]
        gpus = sum(job.gpus for job in at_work)
        self.outcome.most_gpus = max(self.outcome.most_gpus, gpus)
        limit = self._policy.max_concurrent_gpus
        if limit is not None and gpus > limit:
            raise BrokenPromiseError(f"{gpus} GPUs of {limit} are in use")
        each = self._policy.max_concurrent_trainings_per_user
        users = [job.user for job in at_work]
        for user in set(users):
            if each is not None and users.count(user) > each:
                raise BrokenPromiseError(f"{user} has {users.count(user)} of {each} runs at work")

    def _check_nobody_starves(self, started: Waiting, left: list[Waiting], now: datetime) -> None:
        """Who started was not created too long after anybody who goes on waiting.

        But for two: one that is held back by its own user's limit, and one that lacks GPUs and has
        not waited for `backfillSeconds`.
        """
        rules = self._policy.queue
        each = self._policy.max_concurrent_trainings_per_user
        users = [self._jobs[uid].user for uid in self._space.working]
        for old in left:
            if started.created_at <= old.created_at:
                continue
            if each is not None and users.count(old.user) >= each:
                continue
            if (now - old.created_at).total_seconds() < rules.backfill_seconds:
                self.outcome.backfilled += 1
                continue
            younger = (started.created_at - old.created_at).total_seconds()
            self.outcome.latest_passer = max(self.outcome.latest_passer, younger)
            if younger > (MAX_PRIORITY + 1 - old.priority) * rules.aging_seconds:
                raise BrokenPromiseError(f"{started.uid} passed {old.uid}, {younger:.0f} s older")

    def _close_books(self) -> None:
        self.outcome.spent = self._spent()
        places = {
            user: count
            for ledger in self._space.ledgers.values()
            for user, count in ledger.places.items()
            if count
        }
        if places != {user: count for user, count in self._counted.items() if count}:
            raise BrokenPromiseError("the ledger and what happened differ")
        if self._closed_at is None or self._policy.monthly_budget is None:
            return
        self.outcome.at_work_when_spent = self._cost_of_those_at_work(self._closed_at)
        over = self.outcome.spent - Decimal(self._policy.monthly_budget.amount)
        if over > self.outcome.at_work_when_spent:
            raise BrokenPromiseError(f"overspent by {over}")

    def _cost_of_those_at_work(self, when: datetime) -> Decimal:
        """What the runs cost that were at work at an instant, from their start to their end."""
        total = NOTHING
        for uid, begun in self._started.items():
            job = self._jobs[uid]
            seconds = round(job.seconds)
            if begun <= when <= begun + timedelta(seconds=seconds):
                price = price_on(self._policy.prices, {"pool": job.pool})
                total += cost_of(job.gpus * seconds, price)
        return total
