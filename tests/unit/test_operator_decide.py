"""What holds for every decision, whatever is seen: random sights, and walks through them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, AJob, APod, a_job, a_pod, a_training
from tests.results import a_bad_result, a_good_result
from tests.sights import ASight, a_progress, seen

from lora_api.progress import Stage
from lora_api.status import LoRATrainingStatus, Phase
from lora_api.training import MAX_NAME_LENGTH
from lora_operator.labels import job_name, workspace_name
from lora_operator.rules.running import is_worth_writing, to_status
from lora_operator.state.decision import Action, Decision
from lora_operator.state.views import Refusal

words = st.text(max_size=30) | st.sampled_from(["x" * 5000, "\x00\x1b[31m \n" * 900])
codes = st.sampled_from([0, 1, 2, 65, 70, 75, 76, 137, 143])
results = st.one_of(words, st.just(a_good_result()), st.just(a_bad_result()), st.just("{}"))


@st.composite
def pods(draw: st.DrawFn) -> APod:
    pod = a_pod().named(f"anna-train-{draw(st.sampled_from('xyz'))}").aged(draw(st.integers(0, 99)))
    goes: bool = draw(st.booleans())
    if goes:
        pod = pod.being_deleted()
    kind = draw(st.sampled_from(["new", "unschedulable", "placed", "waiting", "running", "ended"]))
    if kind == "unschedulable":
        return pod.unschedulable(draw(words))
    if kind == "placed":
        return pod.placed()
    if kind == "waiting":
        reasons = ["ErrImagePull", "ImagePullBackOff", "CreateContainerConfigError", "Odd"]
        return pod.waiting(draw(st.sampled_from(reasons)), draw(words))
    if kind == "running":
        return pod.running()
    if kind == "ended":
        reason = draw(st.sampled_from(["", "OOMKilled", "StartError"]))
        return pod.ended(draw(codes), draw(results), reason)
    return pod


@st.composite
def jobs(draw: st.DrawFn) -> AJob:
    job = a_job().with_failed_pods(draw(st.integers(0, 5)))
    end = draw(st.sampled_from(["", "complete", "BackoffLimitExceeded", "DeadlineExceeded"]))
    if end == "complete":
        return job.complete()
    return job.failed(end, draw(words)) if end else job


@st.composite
def sights(draw: st.DrawFn) -> ASight:
    recipe = draw(st.sampled_from(["sd15", "sd15", "sd15", "other"]))
    sight = seen(a_training().with_recipe(recipe))
    if draw(st.booleans()):
        sight = sight.with_claim(draw(st.sampled_from(["Pending", "Bound", "Lost"])), draw(words))
    if draw(st.booleans()):
        sight = sight.with_job(draw(jobs()), draw(st.none() | words))
        found = draw(st.lists(pods(), max_size=3, unique_by=lambda pod: pod.name))
        sight = sight.with_pods(*sorted(found, key=lambda pod: -pod.age.total_seconds()))
        tells: bool = draw(st.booleans())
        if found and tells:
            stage = draw(st.sampled_from(list(Stage)))
            sight = sight.with_progress(stage, draw(st.integers(0, 200)))
    elif draw(st.booleans()):
        sight = sight.job_refused(draw(st.sampled_from(list(Refusal))), draw(words))
    return sight


def apply(sight: ASight, status: LoRATrainingStatus | None, now: timedelta) -> Decision:
    return sight.with_status(status).decide(now=NOW + now)


@given(sights())
def test_looking_again_at_the_same_writes_nothing(sight: ASight) -> None:
    first = sight.decide()
    # Sooner than a node is said not to answer, or a wait that nobody explains is told of.
    later = apply(sight, first.status, timedelta(seconds=20))
    assert later.status is None
    assert later.events == ()


@given(st.lists(sights(), min_size=2, max_size=8))
def test_a_terminal_state_never_changes(walk: list[ASight]) -> None:
    status: LoRATrainingStatus | None = None
    for number, sight in enumerate(walk):
        decision = apply(sight, status, timedelta(seconds=number))
        if status is not None and status.phase is not None and status.phase.is_terminal:
            assert decision.status is None
            assert decision.events == ()
        status = decision.status or status


@given(st.lists(sights(), min_size=1, max_size=8))
def test_a_job_is_only_ever_created_where_none_was_recorded(walk: list[ASight]) -> None:
    status: LoRATrainingStatus | None = None
    for number, sight in enumerate(walk):
        recorded = status is not None and status.job_name is not None
        decision = apply(sight, status, timedelta(seconds=number))
        if recorded or sight.observed.job is not None:
            assert Action.CREATE_JOB not in decision.actions
        status = decision.status or status


@given(st.lists(sights(), min_size=1, max_size=8))
def test_every_status_can_be_stored(walk: list[ASight]) -> None:
    status: LoRATrainingStatus | None = None
    for number, sight in enumerate(walk):
        decision = apply(sight, status, timedelta(seconds=number))
        if decision.status is None:
            continue
        status = decision.status
        stored = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        assert LoRATrainingStatus.model_validate(stored) == status
        assert all(condition.reason for condition in status.conditions)


@given(st.lists(sights(), min_size=2, max_size=8))
def test_transition_times_move_only_with_the_truth(walk: list[ASight]) -> None:
    status: LoRATrainingStatus | None = None
    for number, sight in enumerate(walk):
        before = {c.type: c for c in status.conditions} if status is not None else {}
        decision = apply(sight, status, timedelta(seconds=number))
        status = decision.status or status
        if decision.status is None:
            continue
        for condition in decision.status.conditions:
            old = before.get(condition.type)
            if old is None:
                continue
            moved = condition.last_transition_time != old.last_transition_time
            assert moved == (condition.status != old.status and number > 0)


@given(st.lists(sights(), min_size=2, max_size=8))
def test_attempts_never_fall(walk: list[ASight]) -> None:
    status: LoRATrainingStatus | None = None
    for number, sight in enumerate(walk):
        before = (status.attempts or 0) if status is not None else 0
        status = apply(sight, status, timedelta(seconds=number)).status or status
        assert status is not None
        assert (status.attempts or 0) >= before


ORDER = [Phase.PENDING, Phase.STARTING, Phase.TRAINING, Phase.VALIDATING, Phase.UPLOADING]


@given(st.lists(st.sampled_from(list(Stage)), min_size=2, max_size=10))
def test_within_one_attempt_the_phase_only_moves_forward(stages: list[Stage]) -> None:
    status: LoRATrainingStatus | None = None
    phase = Phase.PENDING
    for number, stage in enumerate(stages):
        sight = seen().with_pods(a_pod().running()).with_progress(stage, 10 * number)
        status = apply(sight, status, timedelta(seconds=number)).status or status
        assert status is not None
        assert status.phase is not None
        assert ORDER.index(status.phase) >= ORDER.index(phase)
        phase = status.phase


def test_a_new_attempt_starts_over() -> None:
    first = seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40)
    second = a_pod().named("anna-train-x2").aged(1).placed()
    decision = seen().with_pods(a_pod().ended(1, "boom"), second).after(first).decide()
    assert decision.status is not None
    assert decision.status.phase is Phase.STARTING
    assert decision.status.attempts == 2
    assert decision.status.pod_name == "anna-train-x2"


def test_an_attempt_whose_pod_is_gone_still_counts() -> None:
    first = seen().with_pods(a_pod().running())
    second = a_pod().named("anna-train-x2").running()
    decision = seen().with_pods(second).after(first).decide()
    assert decision.status is not None
    assert decision.status.attempts == 2


def test_a_completed_run_forgets_the_failure_of_an_earlier_attempt() -> None:
    first = seen().with_pods(a_pod().ended(1, "boom"))
    good = a_pod().named("anna-train-x2").aged(1).ended(0, a_good_result())
    sight = seen().with_job(a_job().complete()).with_pods(a_pod().ended(1, "boom"), good)
    decision = sight.after(first).decide()
    assert decision.status is not None
    assert decision.status.failure is None
    assert decision.status.phase is Phase.COMPLETED


WORTH = {
    "the first report": (None, a_progress(Stage.TRAIN, 1, 1000), 0, True),
    "one more step of a thousand": ((Stage.TRAIN, 1), a_progress(Stage.TRAIN, 2, 1000), 1, False),
    "one percent": ((Stage.TRAIN, 1), a_progress(Stage.TRAIN, 10, 1000), 1, True),
    "a new stage": ((Stage.TRAIN, 1), a_progress(Stage.SAVE, 1, 1000), 1, True),
    "a step after 15 s": ((Stage.TRAIN, 1), a_progress(Stage.TRAIN, 2, 1000), 15, True),
    "no step after 15 s": ((Stage.TRAIN, 1), a_progress(Stage.TRAIN, 1, 1000), 15, False),
}


def test_progress_is_written_only_when_it_is_worth_it() -> None:
    for sentence, (known, told, seconds, worth) in WORTH.items():
        before = None if known is None else to_status(a_progress(*known, 1000), NOW)
        now = NOW + timedelta(seconds=seconds)
        assert is_worth_writing(before, told, now) is worth, sentence


@pytest.mark.parametrize("seconds_off", [-86400, -20, 0, 20, 86400])
def test_no_clock_of_a_node_changes_how_often_is_written(seconds_off: int) -> None:
    running = seen().with_pods(a_pod().running())
    status = running.decide().status
    writes = 0
    for second in range(31):
        now = timedelta(seconds=second)
        at = NOW + now + timedelta(seconds=seconds_off)
        told = a_progress(Stage.TRAIN, second, 100_000, at=at)
        decision = apply(running._with(progress=told), status, now)
        writes += decision.status is not None
        status = decision.status or status
    # The first step, and one every 15 s.
    assert writes == 3


def test_the_longest_name_of_a_run_leaves_room_for_its_children() -> None:
    run = a_training().named("a" * MAX_NAME_LENGTH).run()
    assert len(job_name(run.key.name)) <= 63
    assert len(workspace_name(run.key.name)) <= 63


def test_a_failure_in_a_newer_trainers_words_is_passed_on() -> None:
    said = a_bad_result("LensCapOn", "The lens cap is on.", retryable=True)
    ended = seen().with_pods(a_pod().ended(65, said))
    for sight in (ended, ended.with_job(a_job().failed()).with_pods(a_pod().ended(65, said))):
        status = sight.decide().status
        assert status is not None
        assert status.failure is not None
        assert (status.failure.reason, status.message) == ("LensCapOn", "The lens cap is on.")
        assert "LensCapOn" in {condition.reason for condition in status.conditions}


def test_what_an_earlier_run_left_is_waited_for_without_alarm() -> None:
    kind = Refusal.PREDECESSOR_TERMINATING
    for sight, what in (
        (seen().claim_refused(kind, "exists"), "PersistentVolumeClaim anna-workspace"),
        (seen().with_claim().job_refused(kind, "exists"), "Job anna-train"),
    ):
        decision = sight.after(seen()).decide()
        assert decision.status is not None
        assert decision.status.message == (
            f"{what} of an earlier run of this name is still being removed; the run starts by "
            "itself."
        )
        assert [event.kind for event in decision.events] == ["Normal"]
        assert decision.revisit_at == NOW + timedelta(seconds=2)
