"""One error for all that can go wrong, so that the command line prints it in one way."""

from __future__ import annotations

from collections import deque
from pathlib import Path


class ClusterError(Exception):
    """Something about the cluster failed.

    Attributes:
        reason: Stable CamelCase word for machines.
        message: One or more sentences for a person: what, where, what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


def last_lines(path: Path, *, count: int = 15) -> str:
    """The end of a log, indented for an error message; says so when there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            tail = deque(lines, maxlen=count)
    except OSError:
        return f"    (no log at {path})"
    return "".join(f"    {line[:400].rstrip()}\n" for line in tail).rstrip() or "    (empty log)"
