"""Progress of running trainers: pulled over HTTP, mirrored, bounded."""

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_pod, a_training
from tests.sights import a_progress

from lora_api.job import PROGRESS_PORT
from lora_api.progress import MAX_PROGRESS_BYTES
from lora_api.progress import Stage as TrainerStage

pytestmark = pytest.mark.api
# All of 127.0.0.0/8 is this machine, so that each trainer has an address of its own.
ADDRESS = "127.77.0.1"


class Trainer:
    """Stands in for a trainer's HTTP server; says what it is told to say."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.asked: list[str] = []
        trainer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                trainer.asked.append(self.path)
                trainer.authorization = self.headers.get("Authorization")
                self.send_response(trainer.status)
                if trainer.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(trainer.body)))
                self.end_headers()
                self.wfile.write(trainer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.authorization: str | None = None
        self._server = ThreadingHTTPServer((ADDRESS, PROGRESS_PORT), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def says(self, stage: TrainerStage, step: int, total: int = 200) -> None:
        told = a_progress(stage, step, total, at=datetime.now(UTC))
        self.body = told.model_dump_json(by_alias=True).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    server = Trainer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def operator(api: ApiServer) -> Iterator[Operator]:
    process = Operator(api.kubeconfig, "--no-leader-elect", "--progress-via=direct").start()
    yield process
    process.kill()


@pytest.fixture
def stage(api: ApiServer, operator: Operator) -> Stage:
    del operator  # has to run
    namespace = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    stage = Stage(api, a_training().in_namespace(namespace))
    stage.apply()
    stage.add_pod(a_pod().placed())
    stage.set_pod(a_pod().running(), podIP=ADDRESS, podIPs=[{"ip": ADDRESS}])
    return stage


def test_a_running_trainers_progress_reaches_the_status(
    stage: Stage, trainer: Trainer, operator: Operator
) -> None:
    trainer.says(TrainerStage.TRAIN, 50)
    status = stage.is_in("Training", "Training")
    progress = status["progress"]
    assert (progress["step"], progress["totalSteps"], progress["percent"]) == (50, 200, 25)
    assert (progress["stage"], progress["loss"], progress["eta"]) == ("Train", 0.1, "1m15s")
    assert f'name="{stage.name}",namespace="{stage.namespace}"' in operator.read("/metrics")
    trainer.says(TrainerStage.SAMPLE, 200)
    assert stage.is_in("Validating", "Validating")["progress"]["percent"] == 100
    trainer.says(TrainerStage.PUBLISH, 200)
    stage.is_in("Uploading", "Uploading")


def test_the_trainer_is_sent_no_credentials(stage: Stage, trainer: Trainer) -> None:
    trainer.says(TrainerStage.TRAIN, 50)
    stage.is_in("Training")
    assert set(trainer.asked) == {"/progress"}
    assert trainer.authorization is None


def test_less_than_a_percent_is_not_worth_a_write(stage: Stage, trainer: Trainer) -> None:
    trainer.says(TrainerStage.TRAIN, 100, 100_000)
    stage.is_in("Training")
    version, asked = stage.version, len(trainer.asked)
    trainer.says(TrainerStage.TRAIN, 101, 100_000)
    eventually(lambda: len(trainer.asked) > asked + 2, "the trainer was asked again")
    assert stage.version == version


@pytest.mark.parametrize(
    ("sentence", "status", "body"),
    [
        ("a document that is too long", 200, b" " * (MAX_PROGRESS_BYTES + 1)),
        ("something that is no document", 200, b"<html>"),
        ("numbers out of bounds", 200, json.dumps({"stage": "Train", "step": -1}).encode()),
        ("a time without a zone", 200, b'{"stage":"Train","updatedAt":"2026-01-01T00:00:00"}'),
        ("a redirect", 302, b""),
        ("an error", 500, b"boom"),
    ],
)
def test_a_pod_that_answers_with(
    stage: Stage, trainer: Trainer, sentence: str, status: int, body: bytes
) -> None:
    trainer.status, trainer.body = status, body
    eventually(lambda: len(trainer.asked) > 1, f"the pod answered with {sentence}")
    stage.is_in("Starting", "Running")
    assert "progress" not in stage.status
    assert "/elsewhere" not in trainer.asked
    # It is asked again, and believed once it makes sense.
    trainer.status = 200
    trainer.says(TrainerStage.TRAIN, 50)
    stage.is_in("Training", "Training")
