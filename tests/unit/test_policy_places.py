"""The places that runs are told: found once for many looks, and never those of another queue."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.policies import NOON, a_policy, waiting, working

from lora_operator.policy.places import MAX_AGE, Places
from lora_operator.policy.queue import standings
from lora_operator.policy.space import Namespace, without, working_as

# At noon `old` has waited for its first level, and passes `high`.
AGING = a_policy(queue={"agingSeconds": 600})
BEFORE = NOON - timedelta(milliseconds=100)
QUEUE = (waiting("old", "anna", minutes=10), waiting("high", "ben", priority=1))
SPACE = Namespace(
    policy=AGING,
    waiting={run.uid: run for run in QUEUE},
    working={"busy": working("busy", "cleo")},
)
JOINED = {**SPACE.waiting, "third": waiting("third", "dora", priority=2)}


def names(places: Places, space: Namespace) -> list[str]:
    return [run.uid for run in places.queue(space, BEFORE)]


def test_a_queue_in_which_nothing_changed_is_put_in_order_once() -> None:
    places = Places()
    first = places.queue(SPACE, BEFORE)
    read_again = replace(SPACE, policy=a_policy(queue={"agingSeconds": 600}))
    assert places.queue(read_again, BEFORE + MAX_AGE * 0.9) is first


CHANGES = [
    ("a run joins", replace(SPACE, waiting=JOINED), ["third", "high", "old"]),
    ("a run leaves", without(SPACE, "high"), ["old"]),
    (
        "a run gets another priority",
        replace(SPACE, waiting={**SPACE.waiting, "old": replace(QUEUE[0], priority=9)}),
        ["old", "high"],
    ),
    (
        "the policy changes",
        replace(SPACE, policy=a_policy(queue={"agingSeconds": 60})),
        ["old", "high"],
    ),
]


@pytest.mark.parametrize(("sentence", "space", "order"), CHANGES, ids=[row[0] for row in CHANGES])
def test_places_are_found_anew_at_once_when(
    sentence: str, space: Namespace, order: list[str]
) -> None:
    places = Places()
    assert names(places, SPACE) == ["high", "old"]
    assert names(places, space) == order, sentence


def test_among_equals_the_gpus_that_a_user_was_given_count_at_once() -> None:
    equals = {run.uid: run for run in (waiting("a", "anna", minutes=2), waiting("b", "ben"))}
    space = replace(SPACE, waiting=equals)
    places = Places()
    assert names(places, space) == ["a", "b"]
    assert names(places, working_as(space, working("more", "anna"))) == ["b", "a"]


@pytest.mark.parametrize(
    ("seconds", "order"),
    [(0.2, ["high", "old"]), (1, ["old", "high"]), (600, ["old", "high"])],
)
def test_what_time_alone_changes_is_told_within_a_second(seconds: float, order: list[str]) -> None:
    places = Places()
    names(places, SPACE)
    later = BEFORE + timedelta(seconds=seconds)
    assert [run.uid for run in places.queue(SPACE, later)] == order
    assert [places.position(SPACE, uid, later) for uid in order] == [0, 1]
    assert places.position(SPACE, "busy", later) is None


def test_a_clock_that_was_set_back_is_believed() -> None:
    places = Places()
    places.queue(SPACE, NOON)
    assert places.queue(SPACE, BEFORE) == standings(QUEUE, SPACE.working.values(), AGING, BEFORE)
