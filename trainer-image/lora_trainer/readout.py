"""Figures of past steps, fetched from the device without making it wait.

A module of its own because the wait is what costs: a GPU that is asked for its loss after every
step stands still while Python prepares the next one. Figures are gathered over some steps, copied
in the background, and looked at when the next ones are gathered.
"""

from typing import Any, Generic, TypeVar

import torch

Note = TypeVar("Note")

# Steps between two looks on a GPU: a few seconds at most, and no more than is lost by a stop.
STEPS_BETWEEN_READS = 10


class Readout(Generic[Note]):
    """A queue of figures that were computed on the device, each with a note of the host.

    On the CPU figures come back at once; there is nothing to wait for.

    Args:
        device: Where the figures are.
    """

    def __init__(self, device: torch.device) -> None:
        self._at_once = device.type == "cpu"
        self._new: list[tuple[Note, torch.Tensor]] = []
        self._on_the_way: list[tuple[list[Note], torch.Tensor, Any]] = []

    def push(self, note: Note, figures: torch.Tensor) -> list[tuple[Note, list[float]]]:
        """Add one step's figures; returns those of earlier steps that have arrived.

        Args:
            note: Whatever belongs to the step.
            figures: One-dimensional, float32; as many at every step.
        """
        self._new.append((note, figures))
        if self._at_once:
            return self.drain()
        if len(self._new) < STEPS_BETWEEN_READS:
            return []
        arrived = self._arrived()
        self._send()
        return arrived

    def drain(self) -> list[tuple[Note, list[float]]]:
        """All that is left, waited for."""
        if self._new:
            self._send()
        return self._arrived()

    def _send(self) -> None:
        notes = [note for note, _ in self._new]
        gathered = torch.stack([figures for _, figures in self._new])
        self._new = []
        event: Any = None
        if gathered.is_cuda:
            copy = torch.empty(gathered.shape, dtype=gathered.dtype, pin_memory=True)
            gathered = copy.copy_(gathered, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._on_the_way.append((notes, gathered, event))

    def _arrived(self) -> list[tuple[Note, list[float]]]:
        found: list[tuple[Note, list[float]]] = []
        for notes, figures, event in self._on_the_way:
            if event is not None:
                event.synchronize()
            found.extend(zip(notes, figures.tolist(), strict=True))
        self._on_the_way = []
        return found
