"""What is told of a status once it is written: its events, a line in the log, the metrics.

A module of its own because none of it may hold up or fail a look: the status is what counts, and it
is true already.
"""

from collections.abc import Callable
from datetime import datetime

from lora_api.status import LoRATrainingStatus, Phase
from lora_operator.errors import OperatorError
from lora_operator.logs import log
from lora_operator.metrics import Metrics
from lora_operator.run_metrics import bounded_reason, bounded_recipe
from lora_operator.state.decision import Event
from lora_operator.state.views import Run
from lora_operator.status import StatusWriter


class WrittenStatus:
    """Tells of each status that was written."""

    def __init__(
        self, *, writer: StatusWriter, metrics: Metrics, now: Callable[[], datetime]
    ) -> None:
        """Post events through `writer`; `now` is the time that decisions are made by."""
        self._writer = writer
        self._metrics = metrics
        self._now = now

    async def tell(self, run: Run, status: LoRATrainingStatus, events: tuple[Event, ...]) -> None:
        """Tell of a status that took the place of the run's."""
        self._metrics.status_writes.inc()
        if status.phase is not run.status.phase:
            self._count(run, status)
        if status.phase is not run.status.phase or events:
            log(
                "run changed",
                run=run.key,
                phase=status.phase,
                attempt=status.attempts,
                reason=events[0].reason if events else None,
            )
        try:
            await self._writer.tell(run, events, self._now())
        except OperatorError as error:
            # The status is written and true; an event lost in a storm is not worth a retry.
            log("event not posted", run=run.key, error=error.reason)

    def _count(self, run: Run, status: LoRATrainingStatus) -> None:
        recipe = bounded_recipe(run.spec.recipe if run.spec is not None else "")
        self._count_phase(run.status, recipe)
        if status.phase is not None and status.phase.is_terminal:
            self._count_end(run, status, recipe)

    def _count_phase(self, left: LoRATrainingStatus, recipe: str) -> None:
        if left.phase is None or left.phase_started_at is None:
            return
        spent = (self._now() - left.phase_started_at).total_seconds()
        self._metrics.phase_seconds.labels(left.phase.lower(), recipe).observe(max(0.0, spent))

    def _count_end(self, run: Run, status: LoRATrainingStatus, recipe: str) -> None:
        total = ((status.completed_at or self._now()) - run.created_at).total_seconds()
        self._metrics.phase_seconds.labels("total", recipe).observe(max(0.0, total))
        if status.phase is Phase.COMPLETED:
            self._metrics.completed.labels(recipe).inc()
        elif status.failure is not None:
            reason = bounded_reason(status.failure.reason)
            self._metrics.failed.labels(reason, recipe).inc()
