"""Whose turn it is: the same order as by looking at all that are left, for less than that costs."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.policies import NOON, a_policy, waiting, working

from lora_operator.policy.preemption import may_preempt, preempt
from lora_operator.policy.queue import Held, Waiting, in_order, level_of, standings


class Counting(Held):
    """Counts how often it is asked."""

    asked = 0

    def gpus_of(self, user: str) -> int:
        self.asked += 1
        return super().gpus_of(user)


@pytest.mark.parametrize("users", [1, 2, 500])
def test_a_queue_of_few_users_is_put_in_order_as_cheaply_as_one_of_many(users: int) -> None:
    runs = [waiting(f"r{n:03}", f"user-{n % users}", minutes=n % 5) for n in range(500)]
    held = Counting(())
    for run in in_order(runs, held, a_policy(), NOON):
        held.take(run.user, run.gpus)
    assert held.asked <= len(runs)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 30), st.integers(0, 2)),
        max_size=12,
    )
)
def test_each_next_one_is_the_best_of_those_left(rows: list[tuple[str, int, int, int]]) -> None:
    policy = a_policy()
    runs = [
        waiting(f"r{number:02}", user, gpus=gpus, minutes=minutes, priority=priority)
        for number, (user, gpus, minutes, priority) in enumerate(rows)
    ]
    held, left = Held(()), list(runs)
    order: list[Waiting] = []
    for _ in runs:
        best = min(
            left,
            key=lambda run: (
                -level_of(run, policy, NOON),
                held.gpus_of(run.user),
                run.created_at,
                run.uid,
            ),
        )
        held.take(best.user, best.gpus)
        left.remove(best)
        order.append(best)
    assert standings(runs, (), policy, NOON) == tuple(order)


BELOW = [
    ("somebody of a lower class is at work", [1], [(0, True)], True),
    ("it is lower than one of those that wait", [0, 2], [(1, True)], True),
    ("equals are left alone", [1], [(1, True)], False),
    ("who can't be suspended is no help", [1], [(0, False)], False),
    ("nobody waits", [], [(0, True)], False),
    ("nobody is at work", [1], [], False),
]


@pytest.mark.parametrize(
    ("sentence", "classes", "at_work", "may"), BELOW, ids=[row[0] for row in BELOW]
)
def test_room_may_be_made_where(
    sentence: str, classes: list[int], at_work: list[tuple[int, bool]], may: bool
) -> None:
    queue = [waiting(f"r{number}", priority=row) for number, row in enumerate(classes)]
    held = [
        replace(working(f"w{number}", priority=priority), preemptible=preemptible)
        for number, (priority, preemptible) in enumerate(at_work)
    ]
    assert may_preempt(queue, held) is may, sentence


ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 30), st.integers(0, 3)),
    max_size=5,
)


@given(ROWS, ROWS, st.integers(0, 8))
@example([("a", 1, 0, 1)], [("b", 1, 0, 0)], 1)
def test_nobody_is_suspended_where_none_is_below_those_that_wait(
    queue: list[tuple[str, int, int, int]], at_work: list[tuple[str, int, int, int]], gpus: int
) -> None:
    policy = a_policy(maxConcurrentGPUs=gpus, queue={"preemption": "LowerPriority"})
    runs = [
        waiting(f"r{number}", user, gpus=gpus, minutes=minutes, priority=priority)
        for number, (user, gpus, minutes, priority) in enumerate(queue)
    ]
    held = [
        working(f"w{number}", user, gpus=gpus, minutes=minutes, priority=priority)
        for number, (user, gpus, minutes, priority) in enumerate(at_work)
    ]
    found = preempt(standings(runs, held, policy, NOON), held, policy, NOON)
    assert found is None or may_preempt(runs, held)
