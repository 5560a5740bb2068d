"""Who is told of a training's steps and checkpoints, without the loop knowing any of them.

A module of its own because curves, pictures on the way and safe copies come and go with settings;
the loop calls one object at five moments and stays short.
"""

from collections.abc import Callable, Sequence
from typing import Protocol


class LoopObserver(Protocol):
    """Is told of a training; may take time, must leave the model as it was."""

    def began(self, step: int) -> None:
        """The training begins after this many steps; what was seen of later ones is void."""

    def applied(self, step: int) -> None:
        """The model's weights are those after this many steps, until this returns."""

    def stepped(self, step: int, *, loss: float | None, learning_rate: float) -> None:
        """The figures of an optimiser step; may come late, but before the step is saved.

        Args:
            step: Steps done, this one included.
            loss: Its loss; None where the update was refused.
            learning_rate: Its learning rate.
        """

    def saving(self, step: int) -> None:
        """A checkpoint of this step is about to be written."""

    def saved(self, step: int) -> None:
        """A checkpoint of this step is durable."""


class WhenSaved:
    """Calls a function after each checkpoint.

    Args:
        call: The function.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def began(self, step: int) -> None:
        """Nothing was saved yet."""

    def applied(self, step: int) -> None:
        """Nothing was saved yet."""

    def stepped(self, step: int, *, loss: float | None, learning_rate: float) -> None:
        """Nothing was saved yet."""

    def saving(self, step: int) -> None:
        """Nothing was saved yet."""

    def saved(self, step: int) -> None:
        """Call the function."""
        self._call()


class Observers:
    """Several observers as one.

    Args:
        members: Told in this order.
    """

    def __init__(self, members: Sequence[LoopObserver] = ()) -> None:
        self._members = tuple(members)

    def began(self, step: int) -> None:
        """Tell all of them."""
        for member in self._members:
            member.began(step)

    def applied(self, step: int) -> None:
        """Tell all of them."""
        for member in self._members:
            member.applied(step)

    def stepped(self, step: int, *, loss: float | None, learning_rate: float) -> None:
        """Tell all of them."""
        for member in self._members:
            member.stepped(step, loss=loss, learning_rate=learning_rate)

    def saving(self, step: int) -> None:
        """Tell all of them."""
        for member in self._members:
            member.saving(step)

    def saved(self, step: int) -> None:
        """Tell all of them."""
        for member in self._members:
            member.saved(step)
