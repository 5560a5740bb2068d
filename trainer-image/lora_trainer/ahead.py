"""Things made in the background, a little ahead of who uses them.

A module of its own because two stages keep a device busy this way: pictures are decoded while
earlier ones are encoded, batches are put together while earlier ones are trained on.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Made = TypeVar("Made")

# One for the device to go on with, one in the making.
_AHEAD = 2


@contextmanager
def made_ahead(
    make: Callable[[int], Made], numbers: range, *, threads: int = 1
) -> Iterator[Iterator[Made]]:
    """Call `make` for each number in threads of its own, a little ahead of who asks.

    Args:
        make: A failure in it is raised where its result is asked for.
        numbers: In the order in which results are wanted.
        threads: How many are made at the same time.
    """
    worker = ThreadPoolExecutor(threads, thread_name_prefix="ahead")

    def results() -> Iterator[Made]:
        pending: deque[Future[Made]] = deque()
        for number in numbers:
            pending.append(worker.submit(make, number))
            if len(pending) >= _AHEAD + threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield results()
    finally:
        worker.shutdown(wait=True, cancel_futures=True)
