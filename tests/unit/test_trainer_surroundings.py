"""Progress, its server, signals, CPUs, and how fast the command line answers."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lora_api.base import MAX_LOSS
from lora_api.exit_codes import ExitCode
from lora_api.job import ServerSettings
from lora_api.progress import Progress, Stage
from lora_trainer.display import progress_line
from lora_trainer.environment import cpus_from_quota
from lora_trainer.errors import InterruptedRunError
from lora_trainer.progress import ProgressBoard, StepClock
from lora_trainer.server import ProgressServer
from lora_trainer.stopping import StopFlag
from lora_trainer.workspace import Workspace

QUOTAS = {
    "max 100000": None,
    "-1 100000": None,
    "200000 100000": 2.0,
    "150000 100000": 1.5,
    "": None,
    "nonsense": None,
    "1 0": None,
}


@pytest.mark.parametrize("text", QUOTAS)
def test_cpus_come_from_the_cgroup_quota(text: str) -> None:
    assert cpus_from_quota(text) == QUOTAS[text]


def test_the_speed_leaves_out_the_first_step() -> None:
    clock = StepClock()
    clock.add(30.0)
    assert clock.steps_per_second is None
    clock.add(0.5)
    clock.add(0.5)
    assert clock.steps_per_second == pytest.approx(2.0)


def _training_board() -> ProgressBoard:
    board = ProgressBoard()
    board.enter(Stage.TRAIN)
    board.expect(10)
    for step in (1, 2, 3):
        board.stepped(step, loss=0.5, learning_rate=1e-4, seconds=0.5)
    return board


def test_progress_says_step_speed_and_time_left() -> None:
    state = _training_board().snapshot()
    assert (state.stage, state.step, state.total_steps) == (Stage.TRAIN, 3, 10)
    assert state.stage_percent == pytest.approx(30.0)
    assert state.steps_per_second == pytest.approx(2.0)
    assert state.eta_seconds == pytest.approx(3.5)


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf"), 2 * MAX_LOSS])
def test_a_loss_that_is_no_loss_does_not_spoil_the_one_that_is_shown(loss: float | None) -> None:
    board = _training_board()
    board.stepped(4, loss=loss, learning_rate=1e-4, seconds=0.5)
    assert board.loss == pytest.approx(0.5)
    board.restore_loss(loss)  # an earlier version's checkpoint may hold it
    assert board.loss is None
    Progress.model_validate_json(board.snapshot().model_dump_json(by_alias=True))


# Seconds that a step takes, and how many are left: both ends are out of the document's bounds.
PACES = {"faster than a clock can tell": (1e-9, 10), "slower than a lifetime": (1e6, 100_000)}


@pytest.mark.parametrize("name", PACES)
def test_no_pace_makes_a_state_that_can_not_be_said(name: str) -> None:
    seconds, total = PACES[name]
    board = ProgressBoard()
    board.enter(Stage.TRAIN)
    board.expect(total)
    for step in (1, 2):
        board.stepped(step, loss=0.5, learning_rate=1e-4, seconds=seconds)
    Progress.model_validate_json(board.snapshot().model_dump_json(by_alias=True))


def test_the_line_for_logs_leaves_out_what_is_not_known() -> None:
    board = ProgressBoard()
    board.enter(Stage.FETCH)
    assert progress_line(board.snapshot()) == "progress stage=Fetch stage_percent=0 percent=0"
    assert "step=3 total_steps=10 loss=0.5" in progress_line(_training_board().snapshot())


def test_steps_that_compile_do_not_slow_the_time_that_is_left() -> None:
    clock = StepClock()
    for seconds in (20.0, 0.5, 0.5, 30.0, 0.5, 0.5):
        clock.add(seconds)
    assert clock.steps_per_second == pytest.approx(2.0)


def test_the_epoch_is_the_pass_that_the_last_step_belongs_to() -> None:
    board = _training_board()
    assert board.snapshot().epoch is None
    board.divide(1.5)
    epochs = []
    for step in (1, 2, 3, 4, 10):
        board.stepped(step, loss=0.5, learning_rate=1e-4, seconds=0.5)
        epochs.append(board.snapshot().epoch)
    assert epochs == [1, 1, 2, 3, 7]


def test_the_whole_run_only_moves_forward_and_ends_at_a_hundred() -> None:
    board = ProgressBoard()
    seen = []
    for stage in Stage:
        board.enter(stage)
        seen.append(board.snapshot().percent)
        board.advance(1, 2)
        seen.append(board.snapshot().percent)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 100.0)


def test_a_machine_without_a_gpu_says_nothing_of_one() -> None:
    state = _training_board().snapshot()
    assert (state.gpu_peak_bytes, state.gpu_utilization_percent) == (None, None)


def _get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_progress_metrics_and_health_are_served() -> None:
    board = _training_board()
    server = ProgressServer(board, ServerSettings(port=0))
    server.start()
    try:
        status, body = _get(server.port, "/progress")
        assert status == 200
        assert Progress.model_validate_json(body).step == 3
        assert json.loads(body)["totalSteps"] == 10
        assert _get(server.port, "/healthz")[0] == 200
        assert _get(server.port, "/secrets")[0] == 404
        families = {
            family.name: family
            for family in text_string_to_metric_families(_get(server.port, "/metrics")[1].decode())
        }
        assert families["lora_trainer_step"].samples[0].value == 3
        stages = families["lora_trainer_stage"].samples
        assert [one.labels["lora_trainer_stage"] for one in stages if one.value] == ["Train"]
    finally:
        server.stop()


def test_a_slow_reader_does_not_keep_others_out() -> None:
    server = ProgressServer(ProgressBoard(), ServerSettings(port=0))
    server.start()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
    try:
        assert _get(server.port, "/healthz")[0] == 200
    finally:
        for connection in silent:
            connection.close()
        server.stop()


def test_a_signal_sets_the_flag_and_reaches_the_handler_that_was_there() -> None:
    reached = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: reached.append(number))
    stop = StopFlag()
    restore = stop.install()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert reached == [signal.SIGTERM]
        with pytest.raises(InterruptedRunError, match="SIGTERM arrived while testing"):
            stop.check("testing")
    finally:
        restore()
        signal.signal(signal.SIGTERM, before)


def test_waiting_ends_when_a_stop_is_asked_for() -> None:
    stop = StopFlag()
    threading.Timer(0.01, stop.request).start()
    assert stop.wait(60)


def test_a_marker_counts_only_for_its_own_job(tmp_path: Path) -> None:
    mine, other = Workspace(tmp_path, "mine"), Workspace(tmp_path, "other")
    assert mine.done(Stage.SAVE) is None
    mine.mark(Stage.SAVE, {"loss": 0.1})
    assert mine.done(Stage.SAVE) == {"loss": 0.1}
    assert other.done(Stage.SAVE) is None
    (tmp_path / "stages" / "save.json").write_text("half a mar")
    assert mine.done(Stage.SAVE) is None


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from lora_trainer.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "heavy = {'torch', 'diffusers', 'numpy', 'PIL', 'minio', 'prometheus_client', 'rich'}\n"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] == "0 []"


def test_the_modules_before_the_first_download_import_no_torch() -> None:
    program = (
        "import sys, lora_trainer.run, lora_trainer.server, lora_trainer.display\n"
        "import lora_trainer.storage.s3, lora_trainer.storage.local\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_a_stop_before_anything_began_ends_the_process_as_interrupted(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    os.mkfifo(job)
    process = subprocess.Popen([sys.executable, "-m", "lora_trainer", "run", str(job)])
    with job.open("w"):  # opens once the trainer reads; it waits for words that never come
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == ExitCode.INTERRUPTED
