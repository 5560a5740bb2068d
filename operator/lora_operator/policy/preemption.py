"""Which running runs make room for one of a higher priority, where the policy asks for that.

A module of its own because it is the only decision that takes something away: those chosen are
suspended at a checkpoint, keep their place in the month, and wait like others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from lora_api.policy import Preemption, TrainingPolicySpec
from lora_operator.policy.queue import Fit, Held, Waiting, Working, level_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempted:
    """Runs to suspend, and the run that takes their place."""

    victims: tuple[Working, ...]
    beneficiary: Waiting


def may_preempt(waiting: Iterable[Waiting], working: Iterable[Working]) -> bool:
    """Whether anybody at work is below anybody who waits by class; if not, nobody is suspended.

    It needs no order, and most looks at a long queue end with it.
    """
    highest = max((run.priority for run in waiting), default=None)
    if highest is None:
        return False
    return any(run.preemptible and run.priority < highest for run in working)


def preempt(
    queue: Sequence[Waiting],
    working: Sequence[Working],
    policy: TrainingPolicySpec,
    now: datetime,
) -> Preempted | None:
    """The runs to suspend, or None.

    The lowest priority goes first and, among equals, who started last, as that loses least. Whoever
    is suspended must be below the head of the queue by class and by level: by class, because to
    have waited long is no reason to stop others; by level, because it will stand in the queue, and
    must not be let go before the run that it made room for. Nobody is suspended unless that makes
    room enough.

    Args:
        queue: Waiting runs in their order. The first one is considered that its own user's limit
            does not hold back, or that may take the place of its user's own runs.
        working: Runs at work.
        policy: Of the namespace.
        now: The present.
    """
    if policy.queue.preemption is not Preemption.LOWER_PRIORITY or not queue:
        return None
    held = Held(working)
    held_back: set[str] = set()
    for head in queue:
        if head.user in held_back:
            continue
        found = _for_head(head, working, policy, now)
        is_own = held.fit(head.user, head.gpus, policy) in {Fit.OWN_TRAININGS, Fit.OWN_GPUS}
        if found is not None or not is_own:
            return found
        held_back.add(head.user)
    return None


def _for_head(
    head: Waiting, working: Sequence[Working], policy: TrainingPolicySpec, now: datetime
) -> Preempted | None:
    top = level_of(head, policy, now)
    below = sorted(
        (
            run
            for run in working
            if run.preemptible and run.priority < head.priority and level_of(run, policy, now) < top
        ),
        key=lambda run: (run.priority, -run.started_at.timestamp(), run.uid),
    )
    chosen: list[Working] = []
    # What is lacked may change with each, and who did not help before may help then.
    while (fit := _held(working, chosen).fit(head.user, head.gpus, policy)) is not Fit.FITS:
        victim = next((run for run in below if _helps(run, head, fit)), None)
        if victim is None:
            return None
        below.remove(victim)
        chosen.append(victim)
    if not chosen:
        return None
    return Preempted(victims=_needed(chosen, head, working, policy), beneficiary=head)


def _helps(victim: Working, head: Waiting, fit: Fit) -> bool:
    match fit:
        case Fit.NO_SLOT:
            return True
        case Fit.NO_GPUS:
            return victim.gpus > 0
        case Fit.OWN_TRAININGS:
            return victim.user == head.user
        case Fit.OWN_GPUS:
            return victim.user == head.user and victim.gpus > 0
        case Fit.FITS:
            return False


def _needed(
    chosen: list[Working], head: Waiting, working: Sequence[Working], policy: TrainingPolicySpec
) -> tuple[Working, ...]:
    """Those without whom there is no room: a large one chosen last may spare the small ones."""
    needed = list(chosen)
    for victim in chosen:
        others = [run for run in needed if run is not victim]
        if _held(working, others).fit(head.user, head.gpus, policy) is Fit.FITS:
            needed = others
    return tuple(needed)


def _held(working: Sequence[Working], without: Sequence[Working]) -> Held:
    gone = {run.uid for run in without}
    return Held(run for run in working if run.uid not in gone)
