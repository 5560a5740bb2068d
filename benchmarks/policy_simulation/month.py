"""A month of one namespace, played through the operator's own policy code.

A module of its own because a short month is also a test. Here things happen; what must hold
meanwhile is in `books`.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum

from benchmarks.policy_simulation.books import Books, BrokenPromiseError
from benchmarks.policy_simulation.outcome import Outcome
from benchmarks.policy_simulation.workload import Fate, Job

from lora_api.policy import TrainingPolicySpec
from lora_api.policy_ledger import RunState, TrainingLedgerSpec
from lora_operator.policy import gate
from lora_operator.policy.forecast import FORESEEN, forecast
from lora_operator.policy.ledger import Sighting
from lora_operator.policy.ledger_document import read_ledger, write_ledger
from lora_operator.policy.limits import Request
from lora_operator.policy.queue import Waiting
from lora_operator.policy.space import Applicant, Deferred, Namespace
from lora_operator.policy.speed import Measured
from lora_operator.policy.turns import held_for_money, release

# From the wish that a run be suspended to the end of its last pod.
CHECKPOINT_SECONDS = 45


class Happens(IntEnum):
    """What happens at an instant; those of one instant in this order."""

    ENDS = 0
    STOPS = 1
    ASKS = 2
    SUSPENDED = 3
    RESUMED = 4
    RECLASSED = 5


class Month:
    """The namespace, the runs as they really are, and the clock."""

    def __init__(
        self, jobs: Sequence[Job], policy: TrainingPolicySpec, *, seed: int, users: int
    ) -> None:
        self.outcome = Outcome(seed=seed, runs=len(jobs), users=users)
        self._books = Books(jobs, policy, self.outcome)
        self._policy = policy
        self._space = Namespace(policy=policy)
        self._foretold: dict[str, datetime] = {}
        self._head: str | None = None
        """For whom room is being made, as far as anybody was told to."""
        self._events: list[tuple[datetime, Happens, str, int]] = []
        for job in jobs:
            self._later(job.uid, Happens.ASKS, job.created_at)

    def play(self) -> Outcome:
        """The whole month, until the last run has ended.

        Raises:
            BrokenPromiseError: A promise of the policy was broken.
        """
        steps = 0
        while self._events:
            now, what, uid, turn = heapq.heappop(self._events)
            if what in {Happens.ENDS, Happens.STOPS} and turn != self._books.runs[uid].turn:
                continue
            steps += 1
            self._look_at_all(now)
            self._happens(what, uid, now)
            if steps % 500 == 0:
                self._crash(now)
        self._check_nobody_is_left()
        self._books.close(self._space)
        return self.outcome

    def _happens(self, what: Happens, uid: str, now: datetime) -> None:
        match what:
            case Happens.ASKS:
                self._arrive(uid, now)
                return
            case Happens.ENDS:
                self._end(uid, now)
            case Happens.STOPS:
                self._stop(uid, now)
            case Happens.SUSPENDED:
                self._suspend(uid, now)
            case Happens.RESUMED:
                self._resume(uid, now)
            case Happens.RECLASSED:
                self._reclass(uid, now)
        self._release(now)

    def _later(self, uid: str, what: Happens, when: datetime) -> None:
        heapq.heappush(self._events, (when, what, uid, self._books.runs[uid].turn))

    def _arrive(self, uid: str, now: datetime) -> None:
        job = self._books.runs[uid].job
        begun = time.process_time()
        self._space, verdict = gate.ask(self._space, self._applicant(uid))
        spent = time.process_time() - begun
        if isinstance(verdict, Deferred):
            raise BrokenPromiseError(verdict.message)
        if verdict is not None:
            if verdict.reason == "MonthlyLimitReached":
                self.outcome.limit_refusals += 1
                self._books.check_limit_was_reached(job.user)
            else:
                self.outcome.budget_refusals += 1
            self.outcome.decision_seconds.append(spent)
            return
        self._books.count(job.user)
        begun = time.process_time()
        self._release(now)
        self.outcome.decision_seconds.append(spent + time.process_time() - begun)
        if uid in self._space.waiting and int(uid) % 7 == 0:
            self._foretell(uid, now)
        if job.suspended_after is not None:
            self._later(uid, Happens.SUSPENDED, _after(now, job.suspended_after))
        if job.changed_after is not None:
            self._later(uid, Happens.RECLASSED, _after(now, job.changed_after))

    def _applicant(self, uid: str, *, resumed_at: datetime | None = None) -> Applicant:
        truth = self._books.runs[uid]
        job = truth.job
        return Applicant(
            uid=uid,
            name=uid,
            request=Request(
                user=job.user,
                recipe=job.recipe,
                gpus=job.gpus,
                steps=job.steps,
                step_work=job.step_work,
            ),
            created_at=job.created_at,
            priority=truth.priority,
            started_at=truth.first_started_at,
            resumed_at=resumed_at,
        )

    def _release(self, now: datetime) -> None:
        before = self._space
        released = release(before, now)
        space = self._space = released.namespace
        for run, _ in released.refused:
            self.outcome.budget_refusals += 1
            self._books.give_back(run.user)
        left = list(space.waiting.values())
        for run in released.started:
            self._start(run, now, left)
        head = space.waiting.get(space.beneficiary or "")
        for uid in sorted(space.preempted - before.preempted):
            self._books.check_room_is_made_for_a_better(space.working[uid], head)
            self.outcome.preempted += 1
            self._begin_to_stop(uid, now)
        if head is not None and space.preempted != before.preempted:
            # It goes first as soon as there is room: levels may have changed by then.
            self._books.check_nobody_starves(head, left, space.working.values(), now)
            self._head = head.uid
        self.outcome.longest_queue = max(self.outcome.longest_queue, len(space.waiting))
        self._books.check_concurrency()

    def _start(self, run: Waiting, now: datetime, left: Sequence[Waiting]) -> None:
        self._books.check_may_start(run.uid)
        if run.uid != self._head:
            self._books.check_nobody_starves(run, left, self._space.working.values(), now)
        self._head = None if run.uid == self._head else self._head
        truth = self._books.runs[run.uid]
        truth.started_at = now
        if truth.first_started_at is None:
            truth.first_started_at = now
            self.outcome.waits.append((now - run.waits_since).total_seconds())
            if run.uid in self._foretold:
                foretold = (self._foretold[run.uid] - run.created_at).total_seconds()
                self.outcome.estimates.append((foretold, (now - run.created_at).total_seconds()))
        self._later(run.uid, Happens.ENDS, _after(now, truth.seconds_left()))

    def _begin_to_stop(self, uid: str, now: datetime) -> None:
        truth = self._books.runs[uid]
        if not truth.is_stopping:
            truth.is_stopping = True
            self._later(uid, Happens.STOPS, _after(now, CHECKPOINT_SECONDS))

    def _stop(self, uid: str, now: datetime) -> None:
        """Its pods are gone: it has made room, or is held back."""
        truth = self._books.runs[uid]
        truth.stop(now)
        self._space = gate.pause(self._space, uid, created_at=truth.job.created_at)
        if not truth.is_suspended:
            self._ask_again(uid)

    def _suspend(self, uid: str, now: datetime) -> None:
        truth = self._books.runs[uid]
        if uid not in self._space.waiting and uid not in self._space.working:
            return
        self.outcome.suspended += 1
        truth.is_suspended = True
        self._foretold.pop(uid, None)
        self._head = None if uid == self._head else self._head
        if truth.started_at is not None:
            self._begin_to_stop(uid, now)
        else:
            self._space = gate.pause(self._space, uid, created_at=truth.job.created_at)
        self._later(uid, Happens.RESUMED, _after(now, truth.job.suspended_for))

    def _resume(self, uid: str, now: datetime) -> None:
        truth = self._books.runs[uid]
        if truth.is_suspended and truth.started_at is None:
            truth.is_suspended = False
            self._ask_again(uid, resumed_at=now)

    def _reclass(self, uid: str, now: datetime) -> None:
        truth = self._books.runs[uid]
        is_here = uid in self._space.waiting or uid in self._space.working
        if not is_here or truth.job.changed_to == truth.priority:
            return
        self.outcome.reclassed += 1
        truth.priority = truth.job.changed_to
        self._ask_again(uid)

    def _ask_again(self, uid: str, *, resumed_at: datetime | None = None) -> None:
        """Who was admitted is so still."""
        applicant = self._applicant(uid, resumed_at=resumed_at)
        self._space, verdict = gate.ask(self._space, applicant)
        if verdict is not None:
            raise BrokenPromiseError(f"{uid} was admitted, and then not: {verdict.message}")

    def _end(self, uid: str, now: datetime) -> None:
        truth = self._books.runs[uid]
        job, is_whole = truth.job, not truth.periods
        truth.stop(now)
        truth.is_suspended = False
        if job.fate is Fate.DELETED:
            self.outcome.deleted += 1
            self._space = gate.forget(self._space, uid, created_at=job.created_at)
            return
        state, steps = self._fate(job)
        if state is RunState.RETURNED:
            self._books.give_back(job.user)
        if is_whole and job.fate is Fate.COMPLETES:
            self._compare_cost(uid, now)
        for accounted in (False, True):  # the ledger first, then the run's own status
            self._space = gate.note(
                self._space,
                uid,
                self._sight(job, now, state, steps),
                created_at=job.created_at,
                accounted=accounted,
            )

    def _fate(self, job: Job) -> tuple[RunState, int]:
        steps = int(job.steps * job.share)
        if job.fate is Fate.FAILS:
            self.outcome.failed += 1
            return RunState.RETURNED, steps
        if job.fate is Fate.CANCELLED:
            self.outcome.cancelled += 1
            return (RunState.COUNTED if steps else RunState.RETURNED), steps
        self.outcome.completed += 1
        return RunState.COUNTED, steps

    def _compare_cost(self, uid: str, now: datetime) -> None:
        job = self._books.runs[uid].job
        entry = self._space.ledger_of(job.created_at).runs[uid]
        if entry.estimate is not None:
            self.outcome.costs.append((entry.estimate, entry.cost))

    def _look_at_all(self, now: datetime) -> None:
        for uid in self._space.working:
            job = self._books.runs[uid].job
            seen = self._sight(job, now, RunState.RUNNING, 0)
            self._space = gate.note(self._space, uid, seen, created_at=job.created_at)
        budget = self._policy.monthly_budget
        if budget is None or self._books.closed_at is not None:
            return
        if any(ledger.spent >= Decimal(budget.amount) for ledger in self._space.ledgers.values()):
            self._books.closed_at = now

    def _sight(self, job: Job, now: datetime, state: RunState, steps: int) -> Sighting:
        truth, timed = self._books.runs[job.uid], None
        if state is RunState.COUNTED and job.fate is Fate.COMPLETES:
            timed = Measured(
                product=job.product,
                work=steps * job.step_work,
                train_seconds=round(job.training_seconds),
            )
        return Sighting(
            user=job.user,
            recipe=job.recipe,
            gpus=job.gpus,
            state=state,
            steps=steps,
            gpu_seconds=truth.gpu_seconds(now),
            per_gpu_hour=self._books.price(job),
            measured=timed,
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

    def _crash(self, now: datetime) -> None:
        """The next leader has the ledger's text, and what it sees of the runs, as the real one."""
        self.outcome.restarts += 1
        old = self._space
        ledgers = {}
        for month, ledger in old.ledgers.items():
            text = write_ledger(ledger).model_dump_json(by_alias=True)
            ledgers[month] = read_ledger(TrainingLedgerSpec.model_validate_json(text))
            if ledgers[month].spent != ledger.spent:
                raise BrokenPromiseError("money was lost in a restart")
        space = Namespace(policy=self._policy, ledgers=ledgers)
        for uid in [uid for ledger in ledgers.values() for uid in ledger.runs]:
            truth = self._books.runs[uid]
            makes_room = truth.is_stopping and not truth.is_suspended
            space = gate.recall(space, self._applicant(uid), makes_room=makes_room)
            if truth.is_suspended and truth.started_at is None:
                space = gate.pause(space, uid, created_at=truth.job.created_at)
        for what in ("waiting", "working"):
            if getattr(space, what).keys() != getattr(old, what).keys():
                raise BrokenPromiseError(f"a restart changed who is {what}")
        self._head = None
        self._space = space
        self._look_at_all(now)

    def _check_nobody_is_left(self) -> None:
        """Everybody has ended, but for whom the money ended while it had made room."""
        space = self._space
        for uid, run in space.waiting.items():
            if held_for_money(space, uid) is None:
                raise BrokenPromiseError(f"{run.uid} never started")
        if space.working:
            raise BrokenPromiseError(f"never ended: {sorted(space.working)}")
        self.outcome.held_for_money = len(space.waiting)


def _after(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=round(seconds))
