"""The trainer learns for real: the small base model, the quickstart's pictures, a few steps."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

import pytest
from tests.trainer.jobs import AJob, a_job

from lora_api.exit_codes import ExitCode
from lora_api.progress import Progress, Stage
from lora_api.result import Outcome, Result

pytestmark = pytest.mark.trainer
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_held_out_loss_falls_on_the_small_base_model(tmp_path: Path) -> None:
    job = (
        a_job(
            tmp_path,
            base=EXAMPLES / "small-base" / "model",
            dataset=EXAMPLES / "quickstart" / "dataset",
        )
        .having("network", {"rank": 8, "alpha": 8})
        .having("optimization.batchSize", 4)
        .having("validation", {"prompts": ["a zorp"], "heldOutImages": 2, "samplingSteps": 2})
        .with_steps(30)
    )
    code, result = job.run()
    assert code == ExitCode.OK, result.message
    assert result.validation is not None
    assert result.validation.improvement_percent is not None
    assert result.validation.improvement_percent > 5.0


def test_the_container_way_needs_variables_alone_and_serves_its_progress(job: AJob) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job.folder.mkdir(exist_ok=True)
    said = job.folder / "termination-log"
    served = job.having("server.port", port).with_steps(3)
    # No HOME, no temporary folder: all that is written goes into the workspace.
    environment = {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "HOME": "/nonexistent",
        "TMPDIR": "/nonexistent",
        "LORA_JOB": json.dumps(served.body),
        "LORA_WORKSPACE": str(served.workspace),
        "LORA_TERMINATION_LOG": str(said),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_trainer", "run"],
        env=environment,
        cwd="/",
        stderr=subprocess.PIPE,
        text=True,
    )
    stages = set()
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=2) as answer:
                stages.add(Progress.model_validate_json(answer.read()).stage)
        except (OSError, HTTPException):  # not up yet, or gone in the middle of an answer
            pass
        time.sleep(0.05)
    _, log = process.communicate()
    assert process.returncode == ExitCode.OK, log
    assert Stage.TRAIN in stages or Stage.SAMPLE in stages
    assert "first step" in log
    assert Result.model_validate_json(said.read_bytes()).outcome is Outcome.SUCCEEDED


def test_no_credential_is_ever_logged(
    job: AJob, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_trainer.storage.retries.DELAYS_SECONDS", (0.01,))
    os.environ["AWS_ACCESS_KEY_ID"] = "VISIBLEKEY"
    os.environ["AWS_SECRET_ACCESS_KEY"] = "very-secret-key"
    os.environ["AWS_SESSION_TOKEN"] = "very-secret-token"
    os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    job.having("dataset.uri", "s3://datasets/x").having("baseModel.uri", "s3://bases/y").run()
    said = capfd.readouterr()
    assert "StorageUnreachable" in said.err
    assert "very-secret" not in said.out + said.err
