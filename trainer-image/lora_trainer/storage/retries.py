"""Trying again after 1, 2 and 4 seconds what may pass by itself.

A module of its own because every request to a storage needs the same bounded patience: in all at
most some tens of seconds, then the Job controller's much longer one takes over.
"""

from collections.abc import Callable
from typing import TypeVar

from lora_trainer import log
from lora_trainer.errors import StorageError
from lora_trainer.stopping import StopFlag

DELAYS_SECONDS = (1.0, 2.0, 4.0)

T = TypeVar("T")


def retrying(action: Callable[[], T], *, stop: StopFlag) -> T:
    """Run `action`, again after each passing StorageError, until the delays are used up.

    Args:
        action: Does one request, anew each time.
        stop: A stop ends the waiting.

    Returns:
        What the action returned.

    Raises:
        StorageError: The last one.
        InterruptedRunError: A stop was asked for while waiting.
    """
    for delay in DELAYS_SECONDS:
        try:
            return action()
        except StorageError as error:
            if not error.passing:
                raise
            log.warning("storage failed, trying again", seconds=delay, message=error.message)
        if stop.wait(delay):
            stop.check("waiting to try storage again")
    return action()
