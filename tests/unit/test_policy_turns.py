"""Whose turn it is: the same order as by looking at all that are left, for less than that costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies import NOON, a_policy, waiting

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
