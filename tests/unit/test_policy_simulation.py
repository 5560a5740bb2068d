"""A short month through the whole policy; the simulation itself checks every promise at each step.

`make simulate-policy` plays the long one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest
from benchmarks.policy_simulation.books import BrokenPromiseError
from benchmarks.policy_simulation.month import Month
from benchmarks.policy_simulation.outcome import Outcome
from benchmarks.policy_simulation.workload import a_month
from tests.policies import a_policy

from lora_api.policy import TrainingPolicySpec
from lora_operator.policy import queue, turns
from lora_operator.policy.preemption import Preempted
from lora_operator.policy.queue import Waiting, Working

BUSY = {
    "maxConcurrentGPUs": 8,
    "maxConcurrentTrainingsPerUser": 3,
    "prices": {"perGpuHour": "2.00"},
}


def play(seed: int = 1, **fields: object) -> Outcome:
    policy = a_policy(**{**BUSY, **fields})
    return Month(a_month(seed, runs=300, users=20, days=1), policy, seed=seed, users=20).play()


def without_times(outcome: Outcome) -> Outcome:
    return replace(outcome, decision_seconds=[])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_busy_day_keeps_every_promise(seed: int) -> None:
    outcome = play(seed, monthlyTrainingsPerUser=20)
    assert outcome.longest_queue > 50, "a day without a queue shows nothing"
    assert outcome.limit_refusals > 0
    assert outcome.most_gpus == 8
    assert outcome.estimates


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day_on_which_runs_make_room_keeps_every_promise(seed: int) -> None:
    outcome = play(seed, queue={"preemption": "LowerPriority"})
    assert outcome.preempted > 5
    assert outcome.suspended > 5
    assert outcome.reclassed > 3
    assert outcome.restarts > 0


def test_money_ends_before_the_day_and_is_passed_by_what_was_at_work_alone() -> None:
    # So little that it is gone before any speed is measured, and nothing can be estimated.
    budget = Decimal("0.2")
    outcome = play(monthlyBudget={"amount": str(budget)})
    assert outcome.budget_refusals > 100
    assert budget < outcome.spent <= budget + outcome.at_work_when_spent


def test_a_larger_budget_is_passed_by_what_was_at_work_alone_too() -> None:
    outcome = play(monthlyBudget={"amount": "20"})
    assert outcome.budget_refusals > 100
    # Until three runs of a recipe are measured, the budget is kept as it is without estimates.
    assert Decimal(18) < outcome.spent <= Decimal(20) + outcome.at_work_when_spent


def test_the_same_seed_makes_the_same_month() -> None:
    played = without_times(play(7))
    assert played == without_times(play(7))
    assert played != without_times(play(8))


def everybody(
    waiting: Sequence[Waiting],
    working: Iterable[Working],
    policy: TrainingPolicySpec,
    now: datetime,
) -> tuple[Waiting, ...]:
    """A queue that lets all go."""
    return tuple(waiting)


def the_youngest_first(
    waiting: Sequence[Waiting],
    working: Iterable[Working],
    policy: TrainingPolicySpec,
    now: datetime,
) -> tuple[Waiting, ...]:
    """A queue that keeps limits and starves the old."""
    held = queue.Held(working)
    started = []
    for run in sorted(waiting, key=lambda each: each.created_at, reverse=True):
        if held.fit(run.user, run.gpus, policy) is queue.Fit.FITS:
            held.take(run.user, run.gpus)
            started.append(run)
    return tuple(started)


@pytest.mark.parametrize(
    ("wrong", "told"), [(everybody, "GPUs of 8 are in use"), (the_youngest_first, "passed")]
)
def test_the_simulation_notices_a_queue_that_breaks_its_promises(
    monkeypatch: pytest.MonkeyPatch, wrong: object, told: str
) -> None:
    monkeypatch.setattr(turns, "startable", wrong)
    with pytest.raises(BrokenPromiseError, match=told):
        play(queue={"agingSeconds": 60})


def any_victim(
    queue: Sequence[Waiting],
    working: Sequence[Working],
    policy: TrainingPolicySpec,
    now: datetime,
) -> Preempted | None:
    """Whoever runs makes room for whoever waits."""
    return Preempted(victims=tuple(working[:1]), beneficiary=queue[0]) if working else None


def test_the_simulation_notices_who_makes_room_for_an_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "preempt", any_victim)
    with pytest.raises(BrokenPromiseError, match="its equal or less"):
        play(queue={"preemption": "LowerPriority"})
