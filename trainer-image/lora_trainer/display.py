"""What a person at a terminal sees, and what a log collector reads where there is none.

A module of its own because neither may slow the training: it looks at the progress board from a
thread of its own.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lora_api.progress import Progress, Stage
from lora_trainer import log
from lora_trainer.progress import ProgressBoard

_LINE_SECONDS = 5.0
_REFRESH_SECONDS = 0.25


@contextmanager
def display(board: ProgressBoard) -> Iterator[None]:
    """Show the board until the block ends: live on a terminal, else a line every few seconds."""
    shown = _live(board) if sys.stderr.isatty() else _lines(board)
    with shown:
        yield


@contextmanager
def _lines(board: ProgressBoard) -> Iterator[None]:
    log.configure()
    ended = threading.Event()

    def work() -> None:
        last = ""
        while not ended.wait(_LINE_SECONDS):
            line = progress_line(board.snapshot())
            if line != last:
                log.info(line)
            last = line

    thread = threading.Thread(target=work, name="progress-lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def progress_line(progress: Progress) -> str:
    """One line of key=value, without what is not known."""
    fields: dict[str, object] = {
        "stage": progress.stage.value,
        "stage_percent": round(progress.stage_percent, 1),
        "percent": progress.percent,
    }
    if progress.stage is Stage.TRAIN:
        fields |= {
            "step": progress.step,
            "total_steps": progress.total_steps,
            "epoch": progress.epoch,
            "loss": progress.loss,
            "learning_rate": progress.learning_rate,
            "steps_per_second": progress.steps_per_second,
            "eta_seconds": progress.eta_seconds,
            "gpu_peak_bytes": progress.gpu_peak_bytes,
            "gpu_utilization_percent": progress.gpu_utilization_percent,
        }
    known = {name: value for name, value in fields.items() if value is not None}
    return log.render("progress", known)


@contextmanager
def _live(board: ProgressBoard) -> Iterator[None]:
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    handler = RichHandler(console=console, show_path=False, markup=False, log_time_format="%X")
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.configure(handler)
    bars = Bars(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TextColumn("run {task.fields[percent]:.0f} %"),
        console=console,
        refresh_per_second=1 / _REFRESH_SECONDS,
    )
    ended = threading.Event()

    def work() -> None:
        task = bars.add_task(Stage.PLAN.value, total=100.0, detail="", percent=0.0)
        while True:
            over = ended.wait(_REFRESH_SECONDS)  # looked at first: the last state is shown too
            state = board.snapshot()
            bars.update(
                task,
                completed=state.stage_percent,
                description=state.stage.value,
                detail=_detail(state),
                percent=state.percent,
            )
            if over:
                return

    thread = threading.Thread(target=work, name="display", daemon=True)
    with bars:
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=2.0)


def _detail(progress: Progress) -> str:
    if progress.stage is not Stage.TRAIN or not progress.step:
        return ""
    parts = [f"step {progress.step}/{progress.total_steps}"]
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.steps_per_second is not None:
        parts.append(f"{progress.steps_per_second:.2f} steps/s")
    if progress.eta_seconds is not None:
        minutes, seconds = divmod(int(progress.eta_seconds), 60)
        parts.append(f"{minutes}m{seconds:02d}s left")
    if progress.gpu_peak_bytes is not None:
        parts.append(f"{progress.gpu_peak_bytes / 2**30:.1f} GiB")
    return ", ".join(parts)
