"""The workers: take a run from the queue, look at it, and decide when it is looked at again.

A module of its own because here an error becomes a later try, and nothing that happens to one run
may stop the others.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable

from lora_operator.errors import OperatorError, UnavailableError
from lora_operator.logs import log
from lora_operator.metrics import Metrics
from lora_operator.state.keys import Key
from lora_operator.workqueue import WorkQueue

# A write in flight gets this long when the process is told to stop.
FINISH_SECONDS = 2.0


class Workers:
    """A fixed number of tasks that serve one queue."""

    def __init__(
        self,
        *,
        queue: WorkQueue[Key],
        reconcile: Callable[[Key], Awaitable[float | None]],
        count: int,
        metrics: Metrics,
    ) -> None:
        """Serve `queue` with `reconcile`, which returns the seconds until the next look."""
        self._queue = queue
        self._reconcile = reconcile
        self._count = count
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> list[asyncio.Task[None]]:
        """Start all workers.

        Returns:
            Their tasks, which end only after `stop`.
        """
        self._tasks = [
            asyncio.create_task(self._work(), name=f"worker-{number}")
            for number in range(self._count)
        ]
        return self._tasks

    async def stop(self) -> None:
        """Let what is in work finish, within a bound, and take nothing new."""
        self._queue.close()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=FINISH_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            await self._serve(key)

    async def _serve(self, key: Key) -> None:
        try:
            again_after = await self._reconcile(key)
        except OperatorError as error:
            wait = error.retry_after_seconds if isinstance(error, UnavailableError) else None
            delay = self._queue.failed(key, at_least_seconds=wait or 0.0)
            self._metrics.reconcile_errors.labels(error.reason).inc()
            log(
                "reconcile failed",
                level=logging.WARNING,
                run=key,
                reason=error.reason,
                message=error.message,
                again_in=f"{delay:.1f}s",
            )
        except Exception:
            # A fault met by one run must not stop the others.
            delay = self._queue.failed(key)
            self._metrics.reconcile_errors.labels("Bug").inc()
            log("reconcile broke", level=logging.ERROR, run=key, traceback=traceback.format_exc())
        else:
            self._queue.done(key)
            if again_after is not None:
                self._queue.add_after(key, again_after)
