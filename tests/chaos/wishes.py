"""What users ask of their runs while everything dies, and how each run has to end then.

A module of its own because the storm only knows when to ask, and the verdict only what was asked.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

ANYTIME_SECONDS = (0.0, 25.0)
HELD_SECONDS = (3.0, 20.0)
STEPS = (40, 160)
# So that what can't be stored is found out early: each retry is waited for longer than the last.
FEW_STEPS, FEW_RETRIES = 40, 1


class Wish(StrEnum):
    """What a user wants of a run beyond a LoRA."""

    NOTHING = "nothing"
    SUSPEND = "suspend"
    """Held back for a while at some moment."""
    CANCEL = "cancel"
    DELETE = "delete"
    STORE_LATER = "store later"
    """The place for the LoRA takes nothing in until all of the Job's retries are spent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One run as its user wants it."""

    name: str
    wish: Wish
    steps: int
    ephemeral: bool
    keep_partial: bool
    clean_up_soon: bool
    """Whether Jobs and workspace go half a minute after the end."""
    ask_after: float
    """Seconds from the creation to what the user asks."""
    hold_for: float
    """Seconds between suspension and resumption."""

    @property
    def ends(self) -> frozenset[str]:
        """Phases in which the run may end; none where it is deleted."""
        match self.wish:
            case Wish.DELETE:
                return frozenset()
            case Wish.CANCEL:
                # It may have been done before anybody could stop it.
                return frozenset({"Cancelled", "Completed"})
            case _:
                return frozenset({"Completed"})


WISHES = tuple(enumerate(Wish))
DECK = (Wish.NOTHING, Wish.NOTHING, *Wish)
"""One hand: each wish once, and two more runs that are left alone."""


def orders(chance: random.Random) -> Iterator[Order]:
    """Runs without end; each wish meets each kind of workspace, in an order that chance gives."""
    hands = iter(lambda: chance.sample(DECK, len(DECK)), None)
    kinds = {wish: itertools.cycle((number % 2 == 1, number % 2 == 0)) for number, wish in WISHES}
    for number, wish in enumerate(itertools.chain.from_iterable(hands)):
        few = wish is Wish.STORE_LATER
        yield Order(
            name=f"run-{number:03}",
            wish=wish,
            steps=FEW_STEPS if few else chance.randint(*STEPS),
            ephemeral=next(kinds[wish]),
            keep_partial=chance.random() < 0.5,
            clean_up_soon=chance.random() < 0.3,
            ask_after=chance.uniform(*ANYTIME_SECONDS),
            hold_for=chance.uniform(*HELD_SECONDS),
        )


def lost_steps(began: Collection[int], steps_of_attempts: Collection[int], *, every: int) -> int:
    """Steps that an attempt had made safe and a later one did again.

    Args:
        began: Where the attempts began, by the checkpoints themselves.
        steps_of_attempts: How far the attempts before the last had come, by the status.
        every: Steps between two checkpoints; the newest may not have been written yet.
    """
    safe = max((steps - steps % every - every for steps in steps_of_attempts), default=0)
    return max(0, safe - max(began, default=0))
