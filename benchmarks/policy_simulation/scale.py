"""What a decision costs, by the number of runs that have ended and of those that wait.

A module of its own because the simulated month can't show it: its queue and its ledger grow and
shrink together.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

from benchmarks.policy_simulation.workload import START

from lora_api.policy import TrainingPolicySpec
from lora_operator.policy.gate import ask
from lora_operator.policy.ledger import Ledger, Total
from lora_operator.policy.limits import Request
from lora_operator.policy.months import Month
from lora_operator.policy.queue import standings
from lora_operator.policy.space import Applicant, Namespace
from lora_operator.policy.speed import Kind, Speed
from lora_operator.policy.turns import release

USERS = 200
NAMESPACES = 100
WAITING_EACH = 100
REPEATS = 5


def decision_microseconds(policy: TrainingPolicySpec) -> dict[str, float]:
    """Admission of one run after none, a thousand, ... runs have ended; and a full queue's places.

    Processor time, the best of five: whatever is slower is the machine's other work.
    """
    found = {
        f"{ended} ended": _best(partial(_admit_and_release, _after(policy, ended)))
        for ended in (0, 1_000, 10_000, 100_000)
    }
    spaces = [_crowded(policy) for _ in range(NAMESPACES)]
    everything = _best(partial(_look_at_all, spaces))
    queued = NAMESPACES * WAITING_EACH
    found[f"{queued} queued in {NAMESPACES} namespaces, each"] = round(everything / queued, 2)
    return found


def _best(act: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begun = time.process_time()
        act()
        times.append(time.process_time() - begun)
    return round(min(times) * 1e6, 1)


def _after(policy: TrainingPolicySpec, ended: int) -> Namespace:
    month = Month.of(START)
    each = ended // USERS
    names = [f"user-{number:03}" for number in range(USERS)]
    ledger = Ledger(
        month=month,
        users={name: Total(trainings=each, gpu_seconds=each * 600) for name in names},
        places=dict.fromkeys(names, each),
        speeds={
            Kind("sd15", "T4"): Speed(
                runs=ended, work=1000 * ended, train_seconds=500 * ended, other_seconds=100 * ended
            )
        },
    )
    free = policy.model_copy(update={"monthly_trainings_per_user": None})
    return Namespace(policy=free, ledgers={month: ledger})


def _admit_and_release(space: Namespace) -> None:
    admitted, verdict = ask(space, _applicant(0))
    started = release(admitted, START + timedelta(seconds=1)).started
    if verdict is not None or len(started) != 1:
        raise AssertionError("the run that is measured was not admitted and started")


def _crowded(policy: TrainingPolicySpec) -> Namespace:
    space = _after(policy, 0)
    for number in range(WAITING_EACH):
        space, _ = ask(space, _applicant(number))
    return replace(space, working=release(space, START + timedelta(hours=1)).namespace.working)


def _look_at_all(spaces: list[Namespace]) -> None:
    """All that is decided of queues: who starts, and every place in them."""
    now = START + timedelta(hours=1)
    for space in spaces:
        left = release(space, now).namespace
        standings(tuple(left.waiting.values()), left.working.values(), left.policy, now)


def _applicant(number: int) -> Applicant:
    return Applicant(
        uid=str(number),
        name=str(number),
        request=Request(user=f"user-{number % USERS:03}", recipe="sd15", gpus=1, steps=1000),
        created_at=START + timedelta(seconds=number / WAITING_EACH),
    )
