"""Room that is made, or isn't: a run that can't leave its GPUs must not hold up everybody else."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from tests.policies import NOON, a_policy, a_request

from lora_operator.policy.gate import ask, forget
from lora_operator.policy.space import Applicant, Namespace
from lora_operator.policy.turns import ROOM_IS_MADE_WITHIN, Released, release

PREEMPTING = {"queue": {"preemption": "LowerPriority"}}


def a_run(uid: str, *, gpus: int = 1, priority: int = 0) -> Applicant:
    """A run of a user of its own."""
    request = a_request(f"user-{uid}", gpus=gpus)
    return Applicant(uid=uid, name=uid, request=request, created_at=NOON, priority=priority)


def with_asked(space: Namespace, *runs: Applicant) -> Namespace:
    for run in runs:
        space, verdict = ask(space, run)
        assert verdict is None
    return space


def let_go(space: Namespace, now: datetime = NOON) -> Released:
    return release(space, now)


def names(released: Released) -> list[str]:
    return [run.uid for run in released.started]


def making_room() -> Namespace:
    """Of two GPUs, `first` and `last` have one each; `last` is to give its own to `high`."""
    space = Namespace(policy=a_policy(maxConcurrentGPUs=2, **PREEMPTING))
    space = let_go(with_asked(space, a_run("first"))).namespace
    space = let_go(with_asked(space, a_run("last")), NOON + timedelta(seconds=1)).namespace
    space = let_go(with_asked(space, a_run("high", priority=50))).namespace
    assert space.preempted == {"last"}
    return space


def test_whom_room_is_made_for_starts_on_what_somebody_else_leaves() -> None:
    space = forget(making_room(), "first", created_at=NOON)
    released = let_go(space)
    assert names(released) == ["high"]
    assert released.namespace.preempted == frozenset()
    assert set(released.namespace.working) == {"last", "high"}


def test_others_start_on_what_is_left_over_beside_the_room_and_on_nothing_else() -> None:
    space = Namespace(policy=a_policy(maxConcurrentGPUs=4, **PREEMPTING))
    space = let_go(with_asked(space, a_run("first", gpus=2), a_run("last", gpus=2))).namespace
    space = let_go(with_asked(space, a_run("high", gpus=4, priority=50))).namespace
    assert space.preempted == {"first", "last"}
    space = with_asked(space, a_run("one"), a_run("two"), a_run("on-no-gpu", gpus=0))
    space = forget(space, "first", created_at=NOON)
    assert names(let_go(space)) == ["on-no-gpu"], "the two that are free are owed"
    raised = replace(space, policy=a_policy(maxConcurrentGPUs=5, **PREEMPTING))
    assert sorted(names(let_go(raised))) == ["on-no-gpu", "one"], "of three that are free, two are"


def test_who_does_not_make_room_in_time_keeps_its_gpus_and_holds_up_nobody() -> None:
    space = with_asked(making_room(), a_run("next"))
    late = NOON + ROOM_IS_MADE_WITHIN
    assert let_go(space, late - timedelta(seconds=1)).namespace.preempted == {"last"}
    space = let_go(space, late).namespace
    assert "last" not in space.preempted
    assert space.preempted == {"first"}, "another one is asked"
    space = let_go(space, late + ROOM_IS_MADE_WITHIN).namespace
    assert (space.preempted, set(space.working)) == (frozenset(), {"first", "last"})
    space = forget(space, "first", created_at=NOON)
    assert names(let_go(space, late + ROOM_IS_MADE_WITHIN)) == ["high"]


def test_who_did_not_make_room_and_is_gone_leaves_no_trace() -> None:
    space = let_go(making_room(), NOON + ROOM_IS_MADE_WITHIN).namespace
    assert space.stuck == {"last"}
    assert forget(space, "last", created_at=NOON).stuck == frozenset()


def test_nobody_makes_room_any_more_where_the_policy_has_ceased_to_ask_for_it() -> None:
    space = with_asked(making_room(), a_run("next"))
    never = replace(space, policy=a_policy(maxConcurrentGPUs=100))
    released = let_go(never)
    assert names(released) == ["high", "next"]
    assert released.namespace.preempted == frozenset()


def test_a_clock_that_goes_back_gives_no_more_time() -> None:
    space = let_go(making_room(), NOON - timedelta(days=1)).namespace
    space = let_go(space, NOON - timedelta(days=1) + ROOM_IS_MADE_WITHIN).namespace
    assert "last" not in space.preempted
