"""What SIGTERM means before anything has begun: leave at once, in the way that is tried again.

A module of its own, without imports worth naming, because it must be the first: a container's
first process has no default handlers, so a SIGTERM that comes while Python still imports would be
lost, and the kubelet would kill the process a minute later as if it had needed too much memory.
"""

import os
import signal
from types import FrameType

_INTERRUPTED = 143  # lora_api.exit_codes, which is not imported yet


def leave(_number: int, _frame: FrameType | None) -> None:
    """End the process; there is nothing to save."""
    os._exit(_INTERRUPTED)


def listen() -> None:
    """Hear SIGTERM from now on; `StopFlag` takes over once there is something to save."""
    signal.signal(signal.SIGTERM, leave)
