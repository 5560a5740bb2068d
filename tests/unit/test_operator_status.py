"""What the status tells beyond the phase: kstatus' verdict, times spent, attempts, GPU seconds."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import a_bad_result, a_good_result, an_interruption
from tests.sights import ASight, seen
from tests.unit.rows_held_back import IN_QUEUE, QUEUED, SUSPENDED, TRAINING

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import (
    MAX_RECENT_ATTEMPTS,
    AttemptStatus,
    ConditionType,
    LoRATrainingStatus,
    Phase,
)
from lora_operator.state.decision import Decision

COMPLETED = seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, a_good_result()))
FAILED = seen().with_job(a_job().failed()).with_pods(a_pod().ended(65, a_bad_result()))


def status_of(decision: Decision) -> LoRATrainingStatus:
    assert decision.status is not None
    return decision.status


def kstatus(status: LoRATrainingStatus, *, generation: int, deleting: bool = False) -> str:
    """What kstatus says of any resource that it does not know.

    Source: https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
    """
    if deleting:
        return "Terminating"
    if status.observed_generation != generation:
        return "InProgress"
    truths = {condition.type: condition.status for condition in status.conditions}
    if truths.get("Reconciling") == "True":
        return "InProgress"
    if truths.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if truths.get("Ready", "True") != "True" else "Current"


VERDICTS: dict[str, tuple[ASight, str]] = {
    "a run without a pod": (seen(), "InProgress"),
    "a run whose pod finds no node": (seen().with_pods(a_pod().unschedulable("0/1")), "InProgress"),
    "a run in Kueue's queue": (seen(QUEUED).with_job(IN_QUEUE), "InProgress"),
    "a run whose image can't be pulled": (
        seen().with_pods(a_pod().waiting("ErrImagePull", "not found")),
        "InProgress",
    ),
    "a trainer at work, as a Job at work": (TRAINING, "Current"),
    "a run that its user suspended": (seen(SUSPENDED), "Current"),
    "a run that its user cancelled": (seen(a_training().cancelled()), "Current"),
    "a completed run": (COMPLETED, "Current"),
    "a failed run": (FAILED, "Failed"),
}


@pytest.mark.parametrize("sentence", VERDICTS)
def test_kstatus_says_of(sentence: str) -> None:
    sight, verdict = VERDICTS[sentence]
    assert kstatus(status_of(sight.decide()), generation=1) == verdict


def test_kstatus_waits_until_the_latest_wish_was_looked_at() -> None:
    assert kstatus(status_of(COMPLETED.decide()), generation=2) == "InProgress"


def test_every_condition_carries_the_generation_that_it_was_decided_on() -> None:
    changed = replace(TRAINING.training, meta={"generation": 2})
    status = status_of(TRAINING.settled().of(changed).decide())
    assert status.observed_generation == 2
    assert {c.type: c.observed_generation for c in status.conditions} == dict.fromkeys(
        map(str, ConditionType), 2
    )
    assert TRAINING.of(changed).with_status(status).decide().status is None


def test_every_second_of_a_life_is_in_one_part_of_the_timeline() -> None:
    begun = a_training().run().created_at
    way = [
        (10, seen().with_pods(a_pod())),
        (20, seen().with_pods(a_pod().aged(0).placed())),
        (50, seen().with_pods(a_pod().aged(0).placed().running())),
        (90, TRAINING),
        (190, seen().with_pods(a_pod().running()).with_progress(Stage.SAMPLE, 100)),
        (220, seen().with_pods(a_pod().running()).with_progress(Stage.PUBLISH, 100)),
        (230, seen().with_pods(a_pod().ended(0, a_good_result()))),
    ]
    status: LoRATrainingStatus | None = None
    for seconds, sight in way:
        now = begun + timedelta(seconds=seconds)
        status = sight.with_status(status).decide(now=now).status or status
    at = begun + timedelta(seconds=240)
    done = a_job().complete().stored()
    done["status"]["conditions"][0]["lastTransitionTime"] = at.isoformat()
    status = COMPLETED.with_status(status).decide(now=at + timedelta(seconds=60)).status
    assert status is not None
    assert status.timeline is not None
    spent = status.timeline.model_dump(exclude={"part", "part_started_at"})
    # Placing and starting carry the cluster's own times, which the builders fix around NOW.
    assert spent["train_seconds"] == 100
    assert spent["validate_seconds"] == 30
    assert spent["suspended_seconds"] == 0
    assert status.timeline.part is None
    assert status.completed_at is not None
    ended = max(status.completed_at, begun + timedelta(seconds=220))
    assert sum(spent.values()) == int((ended - begun).total_seconds())


def test_time_suspended_is_told_apart() -> None:
    held = seen().with_job(a_job().suspended()).of(SUSPENDED)
    resumed = seen().with_job().with_status(held.decide().status)
    status = status_of(resumed.decide(now=NOW + timedelta(hours=2)))
    assert status.timeline is not None
    assert status.timeline.suspended_seconds == 7200


def test_each_attempt_is_kept_with_its_end() -> None:
    crashed = a_pod().ended(1, "boom")
    evicted = a_pod().named("anna-train-x2").aged(20).ended(143).disrupted("Preemption", "by b")
    third = a_pod().named("anna-train-x3").aged(10).running()
    first = seen().with_pods(crashed)
    second = seen().with_pods(crashed, evicted).after(first)
    status = status_of(
        seen()
        .with_pods(crashed, evicted, third)
        .with_progress(Stage.TRAIN, 40)
        .after(second)
        .decide()
    )
    told = [(a.number, a.pod_name, a.exit_code, a.reason) for a in status.recent_attempts]
    assert told == [
        (1, "anna-train-x1", 1, Reason.TRAINER_CRASHED),
        (2, "anna-train-x2", 143, Reason.INTERRUPTED),
        (3, "anna-train-x3", None, None),
    ]
    assert all(attempt.node_name == "node-1" for attempt in status.recent_attempts)
    assert status.recent_attempts[0].ended_at == NOW


def test_an_attempt_whose_end_nobody_saw_is_closed() -> None:
    gone = status_of(seen().with_job().after(TRAINING).decide())
    (attempt,) = gone.recent_attempts
    assert (attempt.ended_at, attempt.reason) == (NOW, Reason.INTERRUPTED)


def test_the_step_that_an_attempt_reached_is_kept() -> None:
    result = a_bad_result(Reason.STORAGE_UNREACHABLE, "No answer.", retryable=True)
    ended = seen().with_pods(a_pod().ended(75, result)).after(TRAINING)
    assert status_of(ended.decide()).recent_attempts[0].step == 40


def test_only_the_latest_attempts_are_kept() -> None:
    known = tuple(
        AttemptStatus(number=number, pod_name=f"p{number}", ended_at=NOW) for number in range(1, 11)
    )
    before = status_of(TRAINING.decide()).model_copy(
        update={"recent_attempts": known, "attempts": 10, "pod_name": "p10"}
    )
    status = status_of(TRAINING.with_status(before).decide())
    numbers = [attempt.number for attempt in status.recent_attempts]
    assert numbers == list(range(2, 12))
    assert len(numbers) == MAX_RECENT_ATTEMPTS


def test_gpu_seconds_count_from_the_node_to_the_end_over_all_attempts() -> None:
    two_gpus = a_training().with_gpus(2)
    first = (
        a_pod().aged(100).ended(75, a_bad_result(Reason.STORAGE_UNREACHABLE, ".", retryable=True))
    )
    ended = seen(two_gpus).with_pods(first)
    status = status_of(ended.decide())
    assert status.gpu_seconds == 200
    # A wait for a node costs nothing; an attempt at work costs as it goes.
    second = a_pod().named("anna-train-x2").aged(40)
    waiting = seen(two_gpus).with_pods(first, second).with_status(status)
    status = waiting.decide(now=NOW + timedelta(seconds=50)).status or status
    assert status.gpu_seconds == 200
    running = seen(two_gpus).with_pods(first, second.running()).with_status(status)
    status = status_of(running.decide(now=NOW + timedelta(seconds=60)))
    assert status.gpu_seconds == 200 + 2 * (40 + 60)


def test_progress_is_kept_until_the_next_attempt_has_found_its_checkpoint() -> None:
    status: LoRATrainingStatus | None = status_of(TRAINING.decide())
    second = a_pod().named("anna-train-x2").aged(1).running()
    steps = []
    told = (
        (Stage.FETCH, 0),
        (Stage.LOAD, 0),
        (Stage.TRAIN, 0),
        (Stage.TRAIN, 30),
        (Stage.TRAIN, 31),
    )
    for stage, step in told:
        sight = seen().with_pods(second).with_progress(stage, step, 100 if step else 0)
        status = sight.with_status(status).decide().status
        assert status is not None
        assert status.progress is not None
        steps.append((status.progress.step, status.progress.percent))
    assert steps == [(40, 40), (40, 40), (40, 40), (30, 30), (31, 31)]


def test_what_a_trainer_says_at_its_end_is_newer_than_what_it_was_last_asked() -> None:
    ended = seen(SUSPENDED).with_job(a_job().suspended())
    for said, expected in ((44, 44), (0, 40), (12, 40)):
        pod = a_pod().ended(143, an_interruption(step=said)).being_deleted()
        status = status_of(ended.with_pods(pod).after(TRAINING).of(SUSPENDED).decide())
        assert status.phase is Phase.SUSPENDED
        assert status.progress is not None
        assert (status.progress.step, status.progress.percent) == (expected, expected)
        assert f"at step {expected} of 100" in (status.message or "")


def test_passing_seconds_alone_are_no_reason_to_write() -> None:
    status = status_of(TRAINING.decide())
    assert TRAINING.with_status(status).decide(now=NOW + timedelta(minutes=9)).status is None


def test_a_phase_that_somebody_else_wrote_is_put_right() -> None:
    true = status_of(TRAINING.decide())
    for wrong in Phase:
        written = TRAINING.with_status(true.model_copy(update={"phase": wrong}))
        decision = written.decide()
        assert (decision.status or true).phase is Phase.TRAINING


def test_a_wrong_phase_of_a_run_that_has_ended_is_put_right_and_nothing_else() -> None:
    true = status_of(COMPLETED.decide())
    wrong = COMPLETED.with_status(true.model_copy(update={"phase": Phase.TRAINING}))
    status = status_of(wrong.decide())
    assert status.phase is Phase.COMPLETED
    assert status.completed_at == true.completed_at
    assert {c.type for c in status.conditions} == set(ConditionType)
