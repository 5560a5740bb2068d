"""A limit that is lowered below what somebody waits for stops him, and nobody else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from tests.builders import NOW, a_training
from tests.policies import NOON, NOVEMBER, a_policy, a_request, seen
from tests.sights import seen as sighted

from lora_api.policy_ledger import RunState
from lora_api.reasons import Reason
from lora_operator.policy.gate import ask, forget, note, pause
from lora_operator.policy.limits import Refusal
from lora_operator.policy.months import Month
from lora_operator.policy.space import Applicant, Namespace
from lora_operator.policy.turns import held_by_quota, release
from lora_operator.policy_look import look_at

BIG = Applicant(uid="big", name="big", request=a_request("anna", gpus=4), created_at=NOON)
SMALL = Applicant(uid="small", name="small", request=a_request("ben"), created_at=NOON)


def lowered(space: Namespace, **policy: Any) -> Namespace:  # noqa: ANN401
    return replace(space, policy=a_policy(**{"maxConcurrentGPUs": 2, **policy}))


def asked(space: Namespace, *runs: Applicant) -> Namespace:
    for run in runs:
        space, verdict = ask(space, run)
        assert verdict is None
    return space


def four_gpus() -> Namespace:
    return Namespace(policy=a_policy(maxConcurrentGPUs=4))


def begun() -> Namespace:
    """`big` has trained for a while, was suspended, and waits for its turn again."""
    space = release(asked(four_gpus(), BIG), NOON).namespace
    space = note(space, "big", seen(gpu_seconds=100, steps=10), created_at=NOON)
    return asked(pause(space, "big", created_at=NOON), BIG)


def test_who_waits_for_more_than_is_allowed_since_is_refused_and_the_others_start() -> None:
    first = Applicant(uid="first", name="first", request=BIG.request, created_at=NOON)
    space = release(asked(four_gpus(), first), NOON).namespace
    space = forget(asked(space, BIG, SMALL), "first", created_at=NOON)
    released = release(lowered(space), NOON + timedelta(days=1))
    assert [(run.uid, why.reason) for run, why in released.refused] == [("big", "QuotaTooSmall")]
    assert [run.uid for run in released.started] == ["small"]
    assert released.namespace.ledgers[NOVEMBER].runs["big"].state is RunState.RETURNED


def test_who_has_begun_waits_until_the_limit_is_raised_and_holds_up_nobody() -> None:
    space = asked(begun(), SMALL)
    released = release(lowered(space), NOON + timedelta(days=1))
    assert (released.refused, [run.uid for run in released.started]) == ((), ["small"])
    why = held_by_quota(lowered(space), "big")
    assert why is not None
    assert "(maxConcurrentGPUs)" in why.message
    assert why.message.endswith("it goes on once the policy allows as much again.")
    assert held_by_quota(space, "big") is None
    assert [run.uid for run in release(begun(), NOON).started] == ["big"]


def test_nobody_makes_room_for_who_may_never_start() -> None:
    space = asked(begun(), replace(BIG, priority=50))
    space = release(lowered(asked(space, SMALL)), NOON).namespace
    preempting = lowered(space, queue={"preemption": "LowerPriority"})
    assert release(preempting, NOON).namespace.preempted == frozenset()


def test_a_run_that_was_refused_while_it_waited_is_told_which_limit_fell() -> None:
    sight = sighted(a_training().with_gpus(4).with_spec("user", "anna")).observed
    space = Namespace(policy=a_policy(maxConcurrentGPUs=4))
    space, _ = look_at(space, sight, price=Decimal(1), now=NOW)
    space = release(lowered(space), NOW).namespace
    assert space.ledgers[Month.of(NOW)].runs[sight.run.uid].state is RunState.RETURNED
    _, answer = look_at(space, sight, price=Decimal(1), now=NOW)
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.QUOTA_TOO_SMALL
