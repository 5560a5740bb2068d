"""SIGTERM and SIGINT as a flag that stages look at where stopping is safe.

A module of its own because handlers are process-wide: this is the only place that sets them, and
it calls the ones that were there before.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lora_trainer import early
from lora_trainer.errors import InterruptedRunError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Whether the run was asked to stop.

    On the first signal nothing is torn down: the stage in progress reaches its next safe point
    (a step, a file, a picture), makes its work durable and raises. A second SIGINT ends the
    process the way it would without us.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._signal = 0
        self._earlier: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._event.is_set()

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask the run to stop, as the signal would."""
        self._signal = number
        self._event.set()

    def check(self, where: str) -> None:
        """Raise where a stop was asked for.

        Args:
            where: What was being done, for the message.

        Raises:
            InterruptedRunError: A signal came.
        """
        if self.requested:
            name = signal.Signals(self._signal).name
            raise InterruptedRunError(
                f"{name} arrived while {where}; finished stages are kept in the workspace, "
                "run the same job again to go on"
            )

    def wait(self, seconds: float) -> bool:
        """Sleep, but wake up on a stop; returns whether one was asked for."""
        return self._event.wait(seconds)

    def install(self) -> Callable[[], None]:
        """Take over SIGTERM and SIGINT, keeping earlier handlers in the chain.

        Returns:
            A function that puts the earlier handlers back.
        """
        for number in SIGNALS:
            before = signal.signal(number, self._handle)
            # From here on there is something to save.
            self._earlier[number] = signal.SIG_DFL if before is early.leave else before
        return self._restore

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested
        self.request(number)
        earlier = self._earlier.get(number)
        if earlier is signal.default_int_handler and not again:
            return  # Ctrl-C once: stop at the next safe point; twice: KeyboardInterrupt
        if callable(earlier):
            earlier(number, frame)

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()
