"""One at a time across processes: several commands share the cache folder and the package manager.

A module of its own because whoever builds, installs or starts something takes a lock first.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_cluster.progress import say


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file for the block; says so when it has to wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another command that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
