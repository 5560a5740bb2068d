"""The queue: its order, who passes whom, what a waiting run is told, and who is preempted."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies import NOON, a_policy, waiting, working

from lora_api.policy import MAX_PRIORITY, TrainingPolicySpec
from lora_operator.policy.explain import duration, ordinal, place_in_words
from lora_operator.policy.forecast import forecast
from lora_operator.policy.preemption import preempt
from lora_operator.policy.queue import Waiting, Working, standings, startable

FOUR_GPUS = a_policy(maxConcurrentGPUs=4)
ONE_AT_A_TIME = a_policy(maxConcurrentTrainings=1)

ORDERS: list[tuple[str, Sequence[Waiting], Sequence[Working], str]] = [
    ("age decides among equals", [waiting("b", minutes=1), waiting("a", minutes=2)], [], "a b"),
    (
        "priority comes first",
        [waiting("a", minutes=5), waiting("b", priority=1)],
        [],
        "b a",
    ),
    (
        "ten minutes of waiting weigh as much as a point",
        [waiting("a", minutes=11), waiting("b", priority=1)],
        [],
        "a b",
    ),
    (
        "nine minutes do not",
        [waiting("a", minutes=9), waiting("b", priority=1)],
        [],
        "b a",
    ),
    (
        "within a level who holds fewer GPUs comes first",
        [waiting("a", "anna", minutes=5), waiting("b", "ben")],
        [working("x", "anna")],
        "b a",
    ),
    (
        "users take turns",
        [
            waiting("a1", "anna", minutes=6),
            waiting("a2", "anna", minutes=5),
            waiting("b1", "ben", minutes=4),
            waiting("b2", "ben", minutes=3),
        ],
        [],
        "a1 b1 a2 b2",
    ),
    (
        "the name decides at last, so that the order is always the same",
        [waiting("b"), waiting("a")],
        [],
        "a b",
    ),
    (
        "a clock that was set back makes nobody worse off than new",
        [waiting("a", minutes=-50), waiting("b")],
        [],
        "b a",
    ),
]


@pytest.mark.parametrize(
    ("sentence", "queue", "at_work", "names"), ORDERS, ids=[row[0] for row in ORDERS]
)
def test_order(
    sentence: str, queue: Sequence[Waiting], at_work: Sequence[Working], names: str
) -> None:
    order = standings(queue, at_work, ONE_AT_A_TIME, NOON)
    assert [run.name for run in order] == names.split(), sentence


STARTS: list[tuple[str, TrainingPolicySpec, Sequence[Waiting], Sequence[Working], str]] = [
    ("without limits all start", a_policy(), [waiting("a", gpus=16), waiting("b")], [], "a b"),
    (
        "as many as there are GPUs",
        FOUR_GPUS,
        [waiting(name, gpus=2, minutes=9 - n) for n, name in enumerate("abc")],
        [],
        "a b",
    ),
    ("none where all GPUs are held", FOUR_GPUS, [waiting("a")], [working("x", gpus=4)], ""),
    (
        "a run on the CPU needs no GPU",
        FOUR_GPUS,
        [waiting("a"), waiting("b", gpus=0)],
        [working("x", gpus=4)],
        "b",
    ),
    (
        "a small run passes a big one that has not waited for long",
        FOUR_GPUS,
        [waiting("big", gpus=4, minutes=29), waiting("small", "ben")],
        [working("x")],
        "small",
    ),
    (
        "after half an hour GPUs are kept for the big one",
        FOUR_GPUS,
        [waiting("big", gpus=4, minutes=30), waiting("small", "ben")],
        [working("x")],
        "",
    ),
    (
        "a run on the CPU takes nothing from the big one",
        FOUR_GPUS,
        [waiting("big", gpus=4, minutes=30), waiting("small", "ben", gpus=0)],
        [working("x")],
        "small",
    ),
    (
        "one training at a time per user holds up nobody else",
        a_policy(maxConcurrentTrainingsPerUser=1),
        [waiting("a", minutes=90), waiting("b", "ben")],
        [working("x", "anna")],
        "b",
    ),
    (
        "a user's own GPUs hold up nobody else",
        a_policy(maxConcurrentGPUsPerUser=2),
        [waiting("a", gpus=2, minutes=90), waiting("b", "ben", gpus=2)],
        [working("x", "anna")],
        "b",
    ),
    (
        "a user's own GPUs are kept for that user's big run",
        a_policy(maxConcurrentGPUsPerUser=2),
        [waiting("big", gpus=2, minutes=90), waiting("small", gpus=1)],
        [working("x", "anna")],
        "",
    ),
    (
        "one slot, one start",
        ONE_AT_A_TIME,
        [waiting("a", minutes=1), waiting("b", "ben")],
        [],
        "a",
    ),
    ("no slot, no start", ONE_AT_A_TIME, [waiting("a", gpus=0)], [working("x")], ""),
    ("an empty queue starts nothing", FOUR_GPUS, [], [], ""),
    (
        "a lowered limit stops nobody and starts nobody",
        a_policy(maxConcurrentGPUs=1),
        [waiting("a")],
        [working("x", gpus=4)],
        "",
    ),
]


@pytest.mark.parametrize(
    ("sentence", "policy", "queue", "at_work", "names"), STARTS, ids=[row[0] for row in STARTS]
)
def test_start(
    sentence: str,
    policy: TrainingPolicySpec,
    queue: Sequence[Waiting],
    at_work: Sequence[Working],
    names: str,
) -> None:
    started = startable(queue, at_work, policy, NOON)
    assert [run.name for run in started] == names.split(), sentence


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    size = draw(st.integers(0, 25))
    return [
        waiting(
            f"r{number:02}",
            draw(st.sampled_from(["anna", "ben", "cleo"])),
            gpus=draw(st.integers(0, 4)),
            minutes=draw(st.integers(0, 3000)),
            priority=draw(st.integers(0, MAX_PRIORITY)),
        )
        for number in range(size)
    ]


@st.composite
def policies(draw: st.DrawFn) -> TrainingPolicySpec:
    limit = st.one_of(st.none(), st.integers(0, 8))
    return a_policy(
        maxConcurrentGPUs=draw(limit),
        maxConcurrentGPUsPerUser=draw(limit),
        maxConcurrentTrainings=draw(limit),
        maxConcurrentTrainingsPerUser=draw(limit),
        queue={
            "agingSeconds": draw(st.integers(1, 3600)),
            "backfillSeconds": draw(st.integers(0, 7200)),
        },
    )


AT_WORK = st.lists(
    st.builds(
        lambda user, gpus, number: working(f"w{number}", user, gpus=gpus),
        st.sampled_from(["anna", "ben", "dora"]),
        st.integers(0, 3),
        st.integers(0, 10**9),
    ),
    max_size=4,
    unique_by=lambda run: run.uid,
)


@given(queues(), AT_WORK, policies())
def test_no_start_ever_passes_a_limit(
    queue: list[Waiting], at_work: list[Working], policy: TrainingPolicySpec
) -> None:
    started = startable(queue, at_work, policy, NOON)
    if not started:
        return
    assert len({run.uid for run in started}) == len(started)
    everybody: list[Waiting | Working] = [*at_work, *started]

    def is_within(users: set[str], gpu_limit: int | None, run_limit: int | None) -> bool:
        theirs = [run for run in everybody if run.user in users]
        new = [run for run in started if run.user in users]
        within_gpus = gpu_limit is None or sum(run.gpus for run in theirs) <= gpu_limit
        within_runs = run_limit is None or len(theirs) <= run_limit
        return (within_gpus or not any(run.gpus for run in new)) and (within_runs or not new)

    users = {run.user for run in everybody}
    assert is_within(users, policy.max_concurrent_gpus, policy.max_concurrent_trainings)
    for user in users:
        assert is_within(
            {user},
            policy.max_concurrent_gpus_per_user,
            policy.max_concurrent_trainings_per_user,
        )


@given(queues(), AT_WORK, policies())
def test_nobody_passes_a_run_that_waited_out_the_bound(
    queue: list[Waiting], at_work: list[Working], policy: TrainingPolicySpec
) -> None:
    place = {run.uid: number for number, run in enumerate(standings(queue, at_work, policy, NOON))}
    for old in queue:
        bound = timedelta(seconds=(MAX_PRIORITY + 1 - old.priority) * policy.queue.aging_seconds)
        for young in queue:
            if young.created_at > old.created_at + bound:
                assert place[old.uid] < place[young.uid]


@given(queues(), AT_WORK, policies())
def test_what_did_not_start_would_not_start_at_a_second_look(
    queue: list[Waiting], at_work: list[Working], policy: TrainingPolicySpec
) -> None:
    started = startable(queue, at_work, policy, NOON)
    gone = {run.uid for run in started}
    left = [run for run in queue if run.uid not in gone]
    now_at_work = [
        *at_work,
        *(working(run.uid, run.user, gpus=run.gpus) for run in started),
    ]
    assert not startable(left, now_at_work, policy, NOON)


@given(queues(), AT_WORK, policies())
def test_every_run_in_the_queue_has_one_place(
    queue: list[Waiting], at_work: list[Working], policy: TrainingPolicySpec
) -> None:
    order = standings(queue, at_work, policy, NOON)
    assert sorted(run.uid for run in order) == sorted(run.uid for run in queue)


WORDS = [
    (
        "GPUs that others hold",
        FOUR_GPUS,
        waiting("a", "cleo", gpus=2),
        [working("x", "ben", gpus=2), working("y", "anna", gpus=2)],
        12,
        "3rd of 7; needs 2 GPUs; 4 of 4 in use by anna, ben; about 12 min",
    ),
    (
        "trainings at work",
        ONE_AT_A_TIME,
        waiting("a", "cleo"),
        [working("x", "ben")],
        None,
        "3rd of 7; needs 1 GPU; 1 of 1 trainings at work by ben",
    ),
    (
        "one's own trainings",
        a_policy(maxConcurrentTrainingsPerUser=1),
        waiting("a", "ben"),
        [working("x", "ben")],
        150,
        "3rd of 7; needs 1 GPU; 1 of 1 trainings of ben at work; about 2 h",
    ),
    (
        "one's own GPUs",
        a_policy(maxConcurrentGPUsPerUser=2),
        waiting("a", "ben", gpus=2),
        [working("x", "ben")],
        0,
        "3rd of 7; needs 2 GPUs; 1 of 2 GPUs of ben in use; about 1 min",
    ),
    (
        "room that is kept for others",
        FOUR_GPUS,
        waiting("a", "ben"),
        [working("x", "ben")],
        None,
        "3rd of 7; needs 1 GPU; GPUs are kept for runs before it",
    ),
    (
        "many users",
        a_policy(maxConcurrentGPUs=7),
        waiting("a"),
        [working(name, name) for name in "gfedcba"],
        None,
        "3rd of 7; needs 1 GPU; 7 of 7 in use by a, b, c, d, e and 2 more",
    ),
]


@pytest.mark.parametrize(
    ("sentence", "policy", "run", "at_work", "minutes", "told"),
    WORDS,
    ids=[row[0] for row in WORDS],
)
def test_what_a_waiting_run_is_told(
    sentence: str,
    policy: TrainingPolicySpec,
    run: Waiting,
    at_work: Sequence[Working],
    minutes: float | None,
    told: str,
) -> None:
    words = place_in_words(
        run,
        position=3,
        queue_length=7,
        working=at_work,
        policy=policy,
        starts_at=None if minutes is None else NOON + timedelta(minutes=minutes),
        now=NOON,
    )
    assert words == told, sentence


@pytest.mark.parametrize(
    ("number", "word"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (112, "112th"), (21, "21st")],
)
def test_ordinal(number: int, word: str) -> None:
    assert ordinal(number) == word


def test_lengths_of_time_are_rounded_to_what_an_estimate_can_know() -> None:
    assert [duration(s) for s in (0, 95, 7000, 7200, 90_000)] == [
        "1 min",
        "2 min",
        "117 min",
        "2 h",
        "25 h",
    ]


def starts(queue: list[Waiting], at_work: list[Working]) -> dict[str, float]:
    """Minutes from noon at which each run is expected to start."""
    expected = forecast(queue, at_work, FOUR_GPUS, NOON)
    return {uid: (when - NOON).total_seconds() / 60 for uid, when in expected.items()}


def test_a_forecast_plays_the_queue_forward() -> None:
    queue = [waiting("a", gpus=4, minutes=3), waiting("b", "ben", gpus=4, minutes=2)]
    assert starts(queue, [working("x", gpus=4, minutes_left=5)]) == {"a": 5, "b": 15}


def test_a_forecast_knows_that_small_runs_pass() -> None:
    queue = [waiting("big", gpus=4, minutes=3), waiting("small", "ben", minutes=2)]
    at_work = [working("x", gpus=3, minutes_left=20)]
    assert starts(queue, at_work) == {"small": 0, "big": 20}


def test_an_overdue_run_is_expected_to_end_at_any_moment() -> None:
    assert starts([waiting("a", gpus=4)], [working("x", minutes_left=-30)]) == {"a": 0}


def test_nothing_is_foretold_behind_a_run_of_which_nothing_is_known() -> None:
    assert starts([waiting("a", gpus=4)], [working("x", minutes_left=None)]) == {}


def test_a_forecast_ends_a_hundred_places_back() -> None:
    queue = [waiting(f"r{n:03}", gpus=4, minutes=n / 100) for n in range(120)]
    assert len(starts(queue, [working("x", gpus=4)])) == 100


PREEMPTING = a_policy(maxConcurrentGPUs=4, queue={"preemption": "LowerPriority"})
VICTIMS: list[tuple[str, TrainingPolicySpec, Waiting, Sequence[Working], str]] = [
    (
        "nobody unless the policy asks for it",
        FOUR_GPUS,
        waiting("a", gpus=4, priority=9),
        [working("x", gpus=4)],
        "",
    ),
    (
        "the lowest priority goes",
        PREEMPTING,
        waiting("a", priority=9),
        [working("x", gpus=2, priority=5), working("y", gpus=2, priority=1)],
        "y",
    ),
    (
        "among equals who started last, as that loses least",
        PREEMPTING,
        waiting("a", priority=9),
        [working("x", gpus=2, minutes=50), working("y", gpus=2, minutes=5)],
        "y",
    ),
    (
        "nobody goes who would be let go before the run that needs the room",
        PREEMPTING,
        waiting("a", priority=9),
        [working("x", gpus=4, minutes=90)],
        "",
    ),
    (
        "nobody goes whom we can't suspend",
        PREEMPTING,
        waiting("a", priority=9),
        [replace(working("x", gpus=4), preemptible=False)],
        "",
    ),
    (
        "no equal goes, however long the other has waited",
        PREEMPTING,
        waiting("a", priority=5, minutes=9000),
        [working("x", gpus=4, priority=5)],
        "",
    ),
    (
        "nobody goes if that would not be enough",
        PREEMPTING,
        waiting("a", gpus=4, priority=9),
        [working("x", gpus=2), working("y", gpus=2, priority=9)],
        "",
    ),
    (
        "a large one that is enough spares the small ones",
        PREEMPTING,
        waiting("a", gpus=3, priority=9),
        [working("small", gpus=1, minutes=1), working("large", gpus=3, minutes=9)],
        "large",
    ),
    (
        "nobody goes where there is room",
        PREEMPTING,
        waiting("a", gpus=1, priority=9),
        [working("x", gpus=3)],
        "",
    ),
    (
        "who did not help with the first limit may help with the next",
        a_policy(
            maxConcurrentGPUs=4,
            maxConcurrentTrainingsPerUser=1,
            queue={"preemption": "LowerPriority"},
        ),
        waiting("a", gpus=4, priority=9),
        [
            working("other", "ben", gpus=2, priority=1),
            working("own", gpus=2, priority=2),
        ],
        "own other",
    ),
    (
        "who holds no GPU gives none",
        PREEMPTING,
        waiting("a", gpus=4, priority=9),
        [working("cpu", gpus=0), working("x", gpus=4)],
        "x",
    ),
]


@pytest.mark.parametrize(
    ("sentence", "policy", "head", "at_work", "names"), VICTIMS, ids=[row[0] for row in VICTIMS]
)
def test_who_makes_room(
    sentence: str,
    policy: TrainingPolicySpec,
    head: Waiting,
    at_work: Sequence[Working],
    names: str,
) -> None:
    found = preempt([head, waiting("low")], at_work, policy, NOON)
    assert [run.name for run in found.victims] == names.split() if found else not names, sentence
    assert found is None or found.beneficiary == head


def test_a_head_that_its_own_user_holds_back_keeps_nobody_from_having_room_made() -> None:
    policy = a_policy(
        maxConcurrentGPUs=4,
        maxConcurrentTrainingsPerUser=1,
        queue={"preemption": "LowerPriority"},
    )
    queue = [waiting("a", priority=9), waiting("a2", priority=8), waiting("b", "ben", priority=7)]
    at_work = [working("own", gpus=2, priority=9), working("low", "cleo", gpus=2)]
    found = preempt(queue, at_work, policy, NOON)
    assert found is not None
    assert (found.beneficiary.name, [run.name for run in found.victims]) == ("b", ["low"])
