"""From a run and its namespace's gate to words, and from words to the run's status."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.builders import NOW, RUN_UID, ATraining, a_job, a_pod, a_training
from tests.policies import a_policy
from tests.sights import ASight, seen

from lora_api.policy_ledger import RunState
from lora_api.reasons import Reason
from lora_api.status import CostStatus, LoRATrainingStatus, Phase
from lora_operator.policy.months import Month
from lora_operator.policy.space import Namespace
from lora_operator.policy.turns import release
from lora_operator.policy_look import look_at, makes_room, word_of
from lora_operator.state.decision import Action
from lora_operator.state.views import Permission, PolicyWord

QUEUED = PolicyWord(
    permission=Permission.AWAITED, reason=Reason.QUEUED, message="1st of 1; needs 1 GPU"
)
DENIED = PolicyWord(
    permission=Permission.DENIED, reason=Reason.MONTHLY_LIMIT_REACHED, message="No more."
)
GRANTED = PolicyWord()


def with_word(word: PolicyWord) -> ASight:
    return seen().told_by_policy(word)


def test_who_is_granted_goes_on() -> None:
    assert Action.CREATE_WORKSPACE in with_word(GRANTED).decide().actions


def test_who_waits_is_queued_and_nothing_is_created() -> None:
    decision = with_word(QUEUED).decide()
    assert decision.actions == ()
    assert decision.status is not None
    assert (decision.status.phase, decision.status.message) == (Phase.QUEUED, QUEUED.message)


def test_who_is_denied_has_failed_for_good_with_the_policys_sentence() -> None:
    decision = with_word(DENIED).decide()
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status.phase is Phase.FAILED
    failure = decision.status.failure
    assert failure is not None
    assert (failure.reason, failure.message) == ("MonthlyLimitReached", "No more.")
    assert failure.retryable is False


def test_who_waited_goes_on_once_it_is_granted() -> None:
    later = with_word(QUEUED).settled().told_by_policy(GRANTED).decide()
    assert Action.CREATE_WORKSPACE in later.actions


@pytest.mark.parametrize("word", [QUEUED, DENIED], ids=["queued", "denied"])
def test_who_is_under_way_is_not_stopped(word: PolicyWord) -> None:
    running = seen().with_job().with_pods(a_pod().placed().running())
    without = running.decide().status
    told = running.told_by_policy(word).decide().status
    assert without is not None
    assert told == without


WITHDRAWN = PolicyWord(
    permission=Permission.WITHDRAWN, reason=Reason.SUSPENDING, message="Room is needed."
)


def test_who_makes_room_is_suspended_at_a_checkpoint_and_then_queued() -> None:
    running = seen().with_job().with_pods(a_pod().placed().running()).settled()
    going = running.told_by_policy(WITHDRAWN)
    assert going.decide().actions == (Action.SUSPEND_JOB,)
    going = going.with_job(a_job().suspended()).with_pods(a_pod().placed().running())
    decision = going.decide()
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status.message == "Room is needed."
    gone = going.settled().with_job(a_job().suspended()).with_pods().told_by_policy(QUEUED)
    status = gone.decide().status
    assert status is not None
    assert status.phase is Phase.QUEUED


def test_who_made_room_before_it_had_a_job_gets_none() -> None:
    assert seen().told_by_policy(WITHDRAWN).decide().actions == ()


ROOM_IS_MADE: dict[str, ASight] = {
    "has no Job yet": seen(),
    "has a Job that never had a pod": seen().with_job(a_job().suspended()),
    "has a Job whose pod has ended": (
        seen().with_job(a_job().suspended()).with_pods(a_pod().placed().ended(75))
    ),
}


@pytest.mark.parametrize("sentence", ROOM_IS_MADE)
def test_the_queue_hears_at_once_of_room_made_by_a_run_that(sentence: str) -> None:
    assert ROOM_IS_MADE[sentence].told_by_policy(WITHDRAWN).decide().revisit_at == NOW


def test_a_pod_that_came_while_its_job_was_being_suspended_does_not_start_the_run() -> None:
    late = seen().with_job(a_job().suspended()).with_pods(a_pod())
    assert late.told_by_policy(QUEUED).decide().actions == ()
    assert late.told_by_policy(GRANTED).decide().actions == (Action.RESUME_JOB,)


def test_who_suspends_himself_does_not_stand_in_the_queue() -> None:
    decision = seen(a_training().suspended()).told_by_policy(QUEUED).decide()
    assert decision.status is not None
    assert decision.status.phase is Phase.SUSPENDED


def ended() -> ASight:
    return with_word(DENIED).settled()


def test_the_final_cost_is_written_after_the_end_and_nothing_else() -> None:
    cost = CostStatus(amount="1.5", currency="USD", final=True)
    sight = ended().told_by_policy(PolicyWord(cost=cost))
    status = sight.decide().status
    assert status == sight.observed.run.status.model_copy(update={"cost": cost})
    assert sight.settled().decide().status is None


def test_a_cost_that_is_not_final_changes_nothing_after_the_end() -> None:
    cost = CostStatus(amount="1.5", currency="USD")
    assert ended().told_by_policy(PolicyWord(cost=cost)).decide().status is None


def test_a_cost_alone_is_no_reason_to_write_while_a_run_waits() -> None:
    waits = with_word(QUEUED).settled()
    cost = CostStatus(amount="0.1", currency="USD")
    dearer = PolicyWord(
        permission=QUEUED.permission, reason=QUEUED.reason, message=QUEUED.message, cost=cost
    )
    assert waits.told_by_policy(dearer).decide().status is None


def test_a_costly_run_is_told_of_as_its_cost_is_written() -> None:
    word = PolicyWord(cost=CostStatus(amount="3", currency="USD"), alert="It has cost 3.00 USD.")
    decision = with_word(word).decide()
    assert [event.message for event in decision.events][-1] == "It has cost 3.00 USD."
    assert decision.status is not None
    assert decision.status.cost == word.cost


def a_space(**policy: Any) -> Namespace:  # noqa: ANN401
    return Namespace(policy=a_policy(**policy))


def look(space: Namespace, sight: ASight) -> tuple[Namespace, PolicyWord]:
    """One look, as the operator does it: ask, then let go who may start."""
    observed = sight.observed
    space, answer = look_at(space, observed, price=Decimal("3.6"), now=NOW)
    space = release(space, NOW).namespace
    return space, word_of(space, observed.run, answer, "its place")


def state_in(space: Namespace) -> RunState | None:
    entry = space.ledgers[Month.of(NOW)].runs.get(RUN_UID)
    return entry.state if entry else None


def test_a_new_run_is_admitted_and_let_go() -> None:
    space, word = look(a_space(), seen())
    assert word.permission is Permission.GRANTED
    assert state_in(space) is RunState.RUNNING


def test_without_room_it_is_told_its_place() -> None:
    space = a_space(maxConcurrentGPUs=1)
    space, _ = look(space, a_sight_of("first", "u-first"))
    space, word = look(space, seen())
    assert (word.permission, word.message) == (Permission.AWAITED, "its place")


def a_sight_of(name: str, uid: str) -> ASight:
    training = ATraining(name=name, meta={"uid": uid})
    return seen(training)


def test_a_run_at_work_from_before_the_policy_is_adopted_whatever_the_limits() -> None:
    sight = seen().with_job().with_pods(a_pod().placed().running())
    space, word = look(a_space(maxConcurrentGPUs=0, monthlyTrainingsPerUser=0), sight)
    assert word.permission is Permission.GRANTED
    assert list(space.working) == [RUN_UID]


def test_a_suspended_run_gives_its_gpus_back_and_waits_for_its_turn_when_it_goes_on() -> None:
    space, _ = look(a_space(maxConcurrentGPUs=1), seen())
    held = seen(a_training().suspended()).with_job(a_job().suspended())
    space, _ = look(space, held)
    assert (dict(space.working), state_in(space)) == ({}, RunState.WAITING)
    space, _ = look(space, a_sight_of("other", "u-other"))
    assert list(space.working) == ["u-other"]
    space, word = look(space, seen().with_job(a_job().suspended()))
    assert word.permission is Permission.AWAITED
    queued = seen().with_job(a_job().suspended()).told_by_policy(word).decide()
    assert Action.RESUME_JOB not in queued.actions


def test_a_preempted_run_leaves_its_gpus_to_whom_it_made_room_for() -> None:
    space = a_space(
        maxConcurrentGPUs=1,
        queue={"preemption": "LowerPriority"},
        priorityClasses=[{"name": "high", "value": 9}],
    )
    space, _ = look(space, seen())
    urgent = seen(
        ATraining(name="urgent", meta={"uid": "u-urgent"}).with_spec("priorityClassName", "high")
    )
    space, word = look(space, urgent)
    assert word.permission is Permission.AWAITED
    at_work = seen().with_job().with_pods(a_pod().placed().running())
    space, word = look(space, at_work)
    assert word.permission is Permission.WITHDRAWN
    space, word = look(space, at_work.settled().with_pods().with_job(a_job().suspended()))
    assert word.permission is Permission.AWAITED
    assert list(space.working) == ["u-urgent"]
    assert state_in(space) is RunState.WAITING, "or the next leader would resume it"


def suspended_while(sight: ASight) -> ASight:
    return sight.settled().with_job(a_job().suspended())


MAKES_ROOM: dict[str, tuple[ASight, bool]] = {
    "trained when its Job was suspended": (
        suspended_while(seen().with_job().with_pods(a_pod().placed().running())),
        True,
    ),
    "had no pod yet when its Job was suspended": (suspended_while(seen().with_job()), True),
    "said already that it makes room": (
        suspended_while(seen().with_job().told_by_policy(WITHDRAWN)),
        True,
    ),
    "was let go from the queue, and its Job is yet to be resumed": (
        suspended_while(with_word(QUEUED)),
        False,
    ),
    "is at work": (seen().with_job(), False),
    "has no Job": (seen(), False),
    "is suspended by its user": (
        seen(a_training().suspended()).with_job(a_job().suspended()),
        False,
    ),
    "is held back by Kueue": (
        seen().with_job(a_job().suspended().queued_in("team")),
        False,
    ),
}


@pytest.mark.parametrize("sentence", MAKES_ROOM)
def test_whether_a_run_was_making_room_is_seen_of_one_that(sentence: str) -> None:
    sight, expected = MAKES_ROOM[sentence]
    assert makes_room(sight.observed) is expected


def test_a_run_of_kueues_is_not_suspended_by_us() -> None:
    space = a_space(
        maxConcurrentGPUs=1,
        queue={"preemption": "LowerPriority"},
        priorityClasses=[{"name": "high", "value": 9}],
    )
    space, _ = look(space, seen(a_training().queued_in("team")))
    urgent = ATraining(name="urgent", meta={"uid": "u-urgent"})
    space, _ = look(space, seen(urgent.with_spec("priorityClassName", "high")))
    assert space.preempted == frozenset()


def test_a_run_that_is_being_suspended_holds_its_gpus_until_its_pod_is_gone() -> None:
    space, _ = look(a_space(maxConcurrentGPUs=1), seen())
    going = seen(a_training().suspended()).with_job(a_job().suspended())
    space, _ = look(space, going.with_pods(a_pod().placed().running()))
    assert list(space.working) == [RUN_UID]


def with_end(phase: Phase, **more: Any) -> ASight:  # noqa: ANN401
    sight = ended()
    status = sight.observed.run.status.model_copy(update={"phase": phase, **more})
    return sight.with_status(status)


def test_an_end_is_paid_for_and_its_cost_final_once_it_is_in_the_ledger() -> None:
    space, _ = look(a_space(prices={"perGpuHour": "3.6"}), seen())
    space, word = look(space, with_end(Phase.FAILED, gpu_seconds=500))
    assert word.cost == CostStatus(amount="0.5", currency="USD", final=True)
    assert state_in(space) is RunState.RETURNED
    space, _ = look(space, with_end(Phase.FAILED, gpu_seconds=500, cost=word.cost))
    assert state_in(space) is None
    assert space.ledgers[Month.of(NOW)].spent == Decimal("0.5")


def test_who_was_refused_leaves_no_trace_in_the_ledger() -> None:
    space, word = look(a_space(monthlyTrainingsPerUser=0), seen())
    assert (word.permission, word.reason) == (Permission.DENIED, Reason.MONTHLY_LIMIT_REACHED)
    space, word = look(space, with_end(Phase.FAILED))
    assert not any(ledger.runs for ledger in space.ledgers.values())
    assert word.cost is None


def test_who_waited_while_the_money_was_spent_is_told_so_even_after_a_restart() -> None:
    space = a_space(maxConcurrentGPUs=1, monthlyBudget={"amount": "1"})
    space, _ = look(space, a_sight_of("first", "u-first"))
    space, word = look(space, seen())
    assert word.permission is Permission.AWAITED
    spent = LoRATrainingStatus(phase=Phase.TRAINING, gpu_seconds=2000)
    space, _ = look(space, a_sight_of("first", "u-first").with_status(spent))
    restarted = Namespace(policy=space.policy, ledgers=space.ledgers)
    _, word = look(restarted, seen())
    assert (word.permission, word.reason) == (Permission.DENIED, Reason.BUDGET_EXHAUSTED)


def test_a_run_belongs_to_the_month_of_its_creation_by_the_api_servers_clock() -> None:
    space, _ = look_at(a_space(), seen().observed, price=Decimal(1), now=NOW)
    assert set(space.ledgers) == {Month.of(NOW - timedelta(seconds=1))}


def test_who_is_neither_at_work_nor_over_has_no_permission_whatever_the_gate_knows() -> None:
    sight = seen(a_training().suspended()).with_job(a_job().suspended())
    space, word = look(a_space(), sight)
    assert (word.permission, word.reason) == (Permission.AWAITED, Reason.QUEUED)
    resumed = seen().with_job(a_job().suspended()).told_by_policy(word).decide()
    assert Action.RESUME_JOB not in resumed.actions
    over = sight.with_status(ended().observed.run.status).observed.run
    assert word_of(space, over, None, "").permission is Permission.GRANTED


def test_a_run_that_a_new_leader_finds_at_work_is_so_since_it_was_started() -> None:
    started_at = NOW - timedelta(minutes=5)
    status = LoRATrainingStatus(phase=Phase.TRAINING, started_at=started_at)
    sight = seen().with_job().with_pods(a_pod().placed().running()).with_status(status)
    space, _ = look(a_space(), sight)
    assert space.working[RUN_UID].started_at == started_at


def test_a_run_that_was_created_suspended_waits_from_when_it_is_resumed() -> None:
    held = seen(a_training().suspended()).told_by_policy(QUEUED)
    space, _ = look(a_space(maxConcurrentGPUs=1), a_sight_of("first", "u-first"))
    space, _ = look(space, held)
    resumed = held.settled().of(a_training())
    space, word = look(space, resumed)
    assert word.permission is Permission.AWAITED
    assert space.waiting[RUN_UID].waits_since == NOW
    assert space.waiting[RUN_UID].created_at < NOW


def test_who_made_room_and_finds_the_money_gone_is_queued_and_told_so() -> None:
    policy = {"maxConcurrentGPUs": 1, "monthlyBudget": {"amount": "1"}}
    space, _ = look(a_space(**policy), seen())
    dear = LoRATrainingStatus(phase=Phase.TRAINING, gpu_seconds=2000)
    held = seen(a_training().suspended()).with_job(a_job().suspended()).with_status(dear)
    space, _ = look(space, held)
    _, word = look(space, seen().with_job(a_job().suspended()).with_status(dear))
    assert word.permission is Permission.AWAITED
    assert "is spent" in word.message
