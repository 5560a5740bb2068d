"""One line per event on stderr, with the seconds since the start: stdout stays for answers."""

from __future__ import annotations

import sys
import time

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Print one progress line."""
    sys.stderr.write(f"[{time.monotonic() - _BEGAN:6.1f}s] {text}\n")
    sys.stderr.flush()
