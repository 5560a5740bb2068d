"""A run that stands still ends with a reason; one that moves, or may take its time, does not."""

import subprocess
import sys
import threading

import pytest

from lora_api.exit_codes import ExitCode
from lora_api.progress import Progress, Stage, stall_allowance
from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.progress import ProgressBoard
from lora_trainer.watchdog import Watchdog

ALLOWED: dict[str, tuple[float, float]] = {
    "before the first report of a stage, loading and compiling take their time": (0.0, 1800.0),
    "later the job's own limit counts": (12.5, 600.0),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowance(name: str) -> None:
    percent, expected = ALLOWED[name]
    assert stall_allowance(percent, timeout_seconds=600.0) == expected


def test_a_longer_limit_of_the_job_counts_for_the_first_piece_too() -> None:
    assert stall_allowance(0.0, timeout_seconds=9000.0) == 9000.0


def test_a_silent_run_is_ended_with_the_reason_and_the_stacks(
    capfd: pytest.CaptureFixture[str],
) -> None:
    board, ended, said = ProgressBoard(), threading.Event(), list[TrainerError]()

    def end(error: TrainerError) -> None:
        said.append(error)
        ended.set()

    board.enter(Stage.TRAIN)
    board.advance(1.0, 2.0)
    watchdog = Watchdog(board, timeout_seconds=0.2, on_stall=end)
    watchdog.start()
    assert ended.wait(60)
    watchdog.stop()
    assert said[0].reason is Reason.STALLED
    assert said[0].exit_code is ExitCode.STALLED
    assert said[0].retryable
    assert "stage Train" in said[0].message
    assert "test_a_silent_run" in capfd.readouterr().err, "the stacks name who waits"


def test_a_run_that_moves_is_left_alone() -> None:
    board, said = ProgressBoard(), list[TrainerError]()
    watchdog = Watchdog(board, timeout_seconds=5.0, on_stall=said.append)
    board.enter(Stage.CACHE)
    watchdog.start()
    for done in range(1, 4):
        board.advance(done, 4)
        threading.Event().wait(0.1)
    watchdog.stop()
    assert not said


DUMPS = """
import os, signal
from lora_trainer.watchdog import dump_stacks_on_signal

def a_place_to_find():
    os.kill(os.getpid(), signal.SIGUSR1)

dump_stacks_on_signal()
a_place_to_find()
print("went on")
"""


def test_a_signal_writes_the_stacks_and_the_process_goes_on() -> None:
    run = subprocess.run(
        [sys.executable, "-c", DUMPS], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0
    assert run.stdout == "went on\n"
    assert "a_place_to_find" in run.stderr


class _Mute(ProgressBoard):
    """A board whose first states can't be said, for whatever reason."""

    asked = 0

    def snapshot(self) -> Progress:
        self.asked += 1
        if self.asked < 4:
            raise ValueError("a figure out of bounds")
        return super().snapshot()


def test_a_state_that_cannot_be_said_does_not_end_the_watching() -> None:
    board, ended = _Mute(), threading.Event()
    board.enter(Stage.TRAIN)
    board.advance(1.0, 2.0)
    watchdog = Watchdog(board, timeout_seconds=0.2, on_stall=lambda _: ended.set())
    watchdog.start()
    assert ended.wait(60), "a thread that ended sees no stall"
    watchdog.stop()
    assert board.asked > 4
