"""What a waiting run is told: its place, what it needs, who has it, and about how long.

A module of its own because this sentence is all that a user sees of the queue.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from lora_api.policy import TrainingPolicySpec
from lora_operator.policy.queue import Fit, Held, Waiting, Working

NAMED_USERS = 5


def place_in_words(
    run: Waiting,
    *,
    position: int,
    queue_length: int,
    working: Sequence[Working],
    policy: TrainingPolicySpec,
    starts_at: datetime | None,
    now: datetime,
) -> str:
    """One line such as `3rd of 7; needs 2 GPUs; 4 of 4 in use by anna, ben; about 12 min`.

    Args:
        run: The run that waits.
        position: Its place, from 1.
        queue_length: Runs that wait.
        working: All runs at work.
        policy: Of the namespace.
        starts_at: When it is expected to start, if that is known.
        now: The present.
    """
    parts = [
        f"{ordinal(position)} of {queue_length}",
        f"needs {counted(run.gpus, 'GPU')}",
        _obstacle(run, working, policy),
    ]
    if starts_at is not None:
        parts.append(f"about {duration((starts_at - now).total_seconds())}")
    return "; ".join(part for part in parts if part)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def counted(number: int, thing: str) -> str:
    """1 GPU, 2 GPUs."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def duration(seconds: float) -> str:
    """A length of time to the minute, and from two hours on to the hour."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"


def _obstacle(run: Waiting, working: Sequence[Working], policy: TrainingPolicySpec) -> str:
    held = Held(working)
    match held.fit(run.user, run.gpus, policy):
        case Fit.NO_SLOT:
            users = _users(working)
            return f"{held.runs} of {policy.max_concurrent_trainings} trainings at work by {users}"
        case Fit.OWN_TRAININGS:
            limit = policy.max_concurrent_trainings_per_user
            return f"{held.runs_of(run.user)} of {limit} trainings of {run.user} at work"
        case Fit.OWN_GPUS:
            limit = policy.max_concurrent_gpus_per_user
            return f"{held.gpus_of(run.user)} of {limit} GPUs of {run.user} in use"
        case Fit.NO_GPUS:
            users = _users(one for one in working if one.gpus)
            return f"{held.gpus} of {policy.max_concurrent_gpus} in use by {users}"
        case Fit.FITS:
            return "GPUs are kept for runs before it"


def _users(working: Iterable[Working]) -> str:
    users = sorted({run.user or "nobody named" for run in working})
    named = ", ".join(users[:NAMED_USERS])
    return f"{named} and {len(users) - NAMED_USERS} more" if len(users) > NAMED_USERS else named
