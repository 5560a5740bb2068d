"""A run that hangs in the middle of its training ends by itself and goes on later."""

import threading
from collections.abc import Callable

import pytest
from tests.trainer.jobs import AJob

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_api.result import Result
from lora_trainer import watchdog
from lora_trainer.batches import MicroBatch
from lora_trainer.errors import TrainerError
from lora_trainer.loop import Trainer
from lora_trainer.progress import ProgressBoard


def test_a_hung_step_ends_the_run_as_stalled_and_the_next_attempt_goes_on(
    job: AJob, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    honest, patient = Trainer._step, watchdog.Watchdog
    watching: list[watchdog.Watchdog] = []

    def hangs_at_the_fourth(self: Trainer, step: int, batches: list[MicroBatch]) -> None:
        if step == 3:
            watching[0]._timeout_seconds = 1.0  # until here the machine may be slow
            threading.Event().wait()
        honest(self, step, batches)

    def watched(
        board: ProgressBoard, *, timeout_seconds: float, on_stall: Callable[[TrainerError], None]
    ) -> watchdog.Watchdog:
        watching.append(patient(board, timeout_seconds=timeout_seconds, on_stall=on_stall))
        return watching[0]

    six = job.with_steps(6).having("limits.stallTimeoutSeconds", 600)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", hangs_at_the_fourth)
        patch.setattr(watchdog, "Watchdog", watched)
        assert six.start().exit_code() == ExitCode.STALLED
    said = Result.model_validate_json((six.folder / "said-workspace").read_bytes())
    assert (said.reason, said.retryable, said.step) == (Reason.STALLED, True, 3)
    assert "hangs_at_the_fourth" in capfd.readouterr().err, "the stacks say where it hung"
    assert six.run()[0] == ExitCode.OK
    assert "resumed step=2" in capfd.readouterr().err
