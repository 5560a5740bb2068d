"""Figures of past steps, fetched from the device without making it wait.

A module of its own because the wait is what costs: a GPU that is asked for its loss after every
step stands still while Python prepares the next one. Figures are gathered over some steps, or
some seconds where steps are slow, copied in the background, and looked at when they have arrived.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

Note = TypeVar("Note")

# Steps between two looks on a GPU: a few seconds at most, and no more than is lost by a stop.
STEPS_BETWEEN_READS = 10
# Seconds between two looks where that many steps take longer.
SECONDS_BETWEEN_READS = 5.0


@dataclass(frozen=True, slots=True)
class _Parcel(Generic[Note]):
    """Figures on their way to the host."""

    notes: list[Note]
    figures: torch.Tensor
    event: Any
    """Says when they are there; None where they are already."""

    @property
    def is_here(self) -> bool:
        return self.event is None or bool(self.event.query())

    def open(self) -> list[tuple[Note, list[float]]]:
        """The figures, waited for."""
        if self.event is not None:
            self.event.synchronize()
        return list(zip(self.notes, self.figures.tolist(), strict=True))


class Readout(Generic[Note]):
    """A queue of figures that were computed on the device, each with a note of the host.

    On the CPU figures come back at once; there is nothing to wait for.

    Args:
        device: Where the figures are.
        early: Whether they may come back before so many steps as soon as they are there. When that
            is differs between processes, so only one that decides alone may use it.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        early: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at_once = device.type == "cpu"
        self._early = early
        self._clock = clock
        self._sent_at = clock()
        self._new: list[tuple[Note, torch.Tensor]] = []
        self._on_the_way: list[_Parcel[Note]] = []

    def push(self, note: Note, figures: torch.Tensor) -> list[tuple[Note, list[float]]]:
        """Add one step's figures; returns those of earlier steps that have arrived.

        Args:
            note: Whatever belongs to the step.
            figures: One-dimensional, float32; as many at every step.
        """
        self._new.append((note, figures))
        if self._at_once:
            return self.drain()
        full = len(self._new) >= STEPS_BETWEEN_READS
        arrived = self._arrived(wait=full) if full or self._early else []
        if full or (self._early and self._clock() - self._sent_at >= SECONDS_BETWEEN_READS):
            self._send()
        return arrived

    def drain(self) -> list[tuple[Note, list[float]]]:
        """All that is left, waited for."""
        if self._new:
            self._send()
        return self._arrived(wait=True)

    def _send(self) -> None:
        notes = [note for note, _ in self._new]
        gathered = torch.stack([figures for _, figures in self._new])
        self._new = []
        self._sent_at = self._clock()
        self._on_the_way.append(_Parcel(notes, *_copied(gathered)))

    def _arrived(self, *, wait: bool) -> list[tuple[Note, list[float]]]:
        found: list[tuple[Note, list[float]]] = []
        while self._on_the_way and (wait or self._on_the_way[0].is_here):
            found += self._on_the_way.pop(0).open()
        return found


def _copied(figures: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """A copy for the host that is made in the background, and what says that it is there."""
    if not figures.is_cuda:
        return figures, None
    copy = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
    copy.copy_(figures, non_blocking=True)
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return copy, event
