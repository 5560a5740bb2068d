"""Ends a run that has stopped moving, and says where it stands.

A module of its own because it must work when nothing else does: a thread that only looks at the
clock, and behind it a timer of the interpreter that needs no Python at all. A hung network mount,
a deadlock in a driver or a collective call without an answer would otherwise hold a GPU until the
deadline.
"""

import faulthandler
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime

from lora_api.progress import FIRST_PIECE_SECONDS, Progress, stall_allowance
from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.errors import TrainerError
from lora_trainer.progress import ProgressBoard

# How much later the timer without Python acts, where even the thread can't run.
_LAST_RESORT_SECONDS = 60.0
_STDERR = 2


class Watchdog:
    """Watches a progress board from a thread of its own.

    Args:
        board: Every report on it is a sign of life.
        timeout_seconds: Longest silence.
        on_stall: Told why; must end the process.
        first_piece_seconds: Longest silence before a stage's first report.
    """

    def __init__(
        self,
        board: ProgressBoard,
        *,
        timeout_seconds: float,
        on_stall: Callable[[TrainerError], None],
        first_piece_seconds: float = FIRST_PIECE_SECONDS,
    ) -> None:
        self._board = board
        self._timeout_seconds = timeout_seconds
        self._first_piece_seconds = first_piece_seconds
        self._on_stall = on_stall
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End; nothing happens any more."""
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        poll = min(5.0, self._timeout_seconds / 10)
        seen: datetime | None = None
        since = time.monotonic()
        while not self._over.wait(poll):
            try:
                progress = self._board.snapshot()
            except Exception as error:
                # Nobody else moves the timer of last resort: without this thread it would end a
                # healthy run. While nothing can be said, nothing is called a stall.
                log.exception("the progress can't be said", error)
                faulthandler.cancel_dump_traceback_later()
                seen, since = None, time.monotonic()
                continue
            if progress.updated_at != seen:
                seen, since = progress.updated_at, time.monotonic()
            allowed = stall_allowance(
                progress.stage_percent,
                timeout_seconds=self._timeout_seconds,
                first_piece_seconds=self._first_piece_seconds,
            )
            silent = time.monotonic() - since
            if silent > allowed:
                self._end(progress, silent)
                return
            later = allowed - silent + _LAST_RESORT_SECONDS
            faulthandler.dump_traceback_later(later, exit=True, file=_STDERR)

    def _end(self, progress: Progress, silent: float) -> None:
        faulthandler.cancel_dump_traceback_later()
        log.error("stalled", stage=progress.stage.value, silent_seconds=silent)
        dump_stacks()
        self._on_stall(
            TrainerError(
                Reason.STALLED,
                f"no progress for {silent:.0f} s in stage {progress.stage.value} (step "
                f"{progress.step} of {progress.total_steps}), limits.stallTimeoutSeconds is "
                f"{self._timeout_seconds:g}; the log has the stacks of all threads. The next "
                "attempt goes on from the last checkpoint",
            )
        )


def dump_stacks() -> None:
    """Write where every thread is to the log's stream."""
    faulthandler.dump_traceback(file=_STDERR, all_threads=True)


def dump_stacks_on_signal() -> None:
    """SIGUSR1 writes where every thread is, and the run goes on."""
    faulthandler.register(signal.SIGUSR1, file=_STDERR, all_threads=True, chain=False)
