"""Policies, queues and ledgers for tests, built in few words.

A module of its own because tests of the policy need no object of Kubernetes' at all.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from lora_api.policy import TrainingPolicySpec
from lora_api.policy_ledger import RunState
from lora_operator.policy.ledger import Ledger, Sighting
from lora_operator.policy.limits import Request
from lora_operator.policy.months import Month
from lora_operator.policy.queue import Waiting, Working
from lora_operator.policy.speed import Kind, Measured, Speed

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
NOVEMBER = Month(2026, 11)


def a_policy(**fields: Any) -> TrainingPolicySpec:  # noqa: ANN401 - as an administrator writes it
    """A policy with these fields, named as in YAML."""
    return TrainingPolicySpec.model_validate(fields)


def a_ledger() -> Ledger:
    """An empty ledger of November."""
    return Ledger(month=NOVEMBER)


def a_speed(
    *, runs: int = 3, work: int = 2000, seconds: int = 2000, other: int = 0, product: str = ""
) -> dict[Kind, Speed]:
    """What is known of sd15: a step of one block a second unless something else is given."""
    speed = Speed(runs=runs, work=work, train_seconds=seconds, other_seconds=other)
    return {Kind("sd15", product): speed}


def a_request(user: str = "anna", *, gpus: int = 1, steps: int | None = 1000) -> Request:
    """A run that asks to be admitted."""
    return Request(user=user, recipe="sd15", gpus=gpus, steps=steps)


def seen(
    state: RunState = RunState.RUNNING,
    *,
    user: str = "anna",
    gpu_seconds: int = 0,
    steps: int = 0,
    price: str = "3.6",
    train_seconds: int | None = None,
    product: str = "",
) -> Sighting:
    """What is seen of a run; a GPU-second costs a thousandth unless another price is given.

    Where its training was timed, each step has worked through one block.
    """
    timed = None
    if train_seconds is not None:
        timed = Measured(product=product, work=steps, train_seconds=train_seconds)
    return Sighting(
        user=user,
        recipe="sd15",
        gpus=1,
        state=state,
        gpu_seconds=gpu_seconds,
        steps=steps,
        per_gpu_hour=Decimal(price),
        measured=timed,
    )


def waiting(
    name: str,
    user: str = "anna",
    *,
    gpus: int = 1,
    minutes: float = 0,
    priority: int = 0,
    seconds: float | None = 600,
) -> Waiting:
    """A run that has waited for so many minutes at noon, and is expected to run for so long."""
    return Waiting(
        uid=name,
        name=name,
        user=user,
        gpus=gpus,
        created_at=NOON - timedelta(minutes=minutes),
        priority=priority,
        seconds=seconds,
    )


def working(
    name: str,
    user: str = "anna",
    *,
    gpus: int = 1,
    minutes_left: float | None = 10,
    priority: int = 0,
    minutes: float = 10,
) -> Working:
    """A run that has been at work for so many minutes at noon, and is expected to end in others."""
    return Working(
        uid=name,
        name=name,
        user=user,
        gpus=gpus,
        priority=priority,
        created_at=NOON - timedelta(minutes=minutes),
        started_at=NOON - timedelta(minutes=minutes),
        ends_at=None if minutes_left is None else NOON + timedelta(minutes=minutes_left),
    )
