"""The documents between operator and trainer: bounds, defaults and the words of their errors."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lora_api.base import MAX_URI_LENGTH, memory_bytes
from lora_api.exit_codes import ExitCode
from lora_api.job import JobDocument
from lora_api.progress import Progress, Stage
from lora_api.reasons import MEANINGS, Reason
from lora_api.result import MAX_RESULT_BYTES, Outcome, Result
from lora_api.status import ArtifactStatus, ValidationStatus
from lora_api.training import ResourceSettings
from lora_api.wording import explain

MINIMAL: dict[str, Any] = {
    "name": "zorp",
    "recipe": "sd15",
    "baseModel": {"uri": "file:///models/base"},
    "dataset": {"uri": "s3://datasets/zorp/"},
    "output": {"uri": "s3://models/zorp/"},
}


def a_job(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return MINIMAL | changes


def test_a_minimal_job_gets_the_usual_defaults() -> None:
    job = JobDocument.model_validate(a_job())
    assert job.network.rank is None  # the recipe decides
    assert job.network.alpha is None
    assert job.optimization.learning_rate is None  # the recipe decides
    assert job.checkpoints.keep == 2


def test_a_job_survives_the_way_through_json() -> None:
    job = JobDocument.model_validate(a_job(optimization={"epochs": 3}))
    assert JobDocument.model_validate_json(job.model_dump_json(by_alias=True)) == job


def test_all_faults_are_told_at_once_each_with_its_path() -> None:
    document = a_job(
        network={"rank": 0, "dropuot": 0.1},
        optimization={"steps": 5, "epochs": 5},
        dataset={"uri": "ftp://host/x"},
    )
    with pytest.raises(ValidationError) as caught:
        JobDocument.model_validate(document)
    text = explain(caught.value)
    for expected in (
        "network.rank",
        "network.dropuot",
        "optimization: set steps or",
        "dataset.uri",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("sentence", "uri", "accepted"),
    [
        ("a bucket and a prefix", "s3://models/anna/", True),
        ("a bucket alone", "s3://models", True),
        ("dots inside a name", "s3://models/v1.5/model.safetensors", True),
        ("a step up the tree", "s3://models/../other", False),
        ("a hidden step up", "s3://models/a/%2e%2e/b", False),
        ("an empty path component", "s3://models//anna", False),
        ("a query", "s3://models/a?versionId=1", False),
        ("an upper-case bucket", "s3://Models/a", False),
        ("another scheme", "http://169.254.169.254/latest", False),
        ("a line break", "s3://models/a\nb", False),
        ("nothing", "", False),
    ],
)
def test_storage_uris(sentence: str, uri: str, accepted: bool) -> None:
    document = a_job(output={"uri": uri})
    if accepted:
        assert JobDocument.model_validate(document).output.uri == uri, sentence
    else:
        with pytest.raises(ValidationError, match=r"output\.uri"):
            JobDocument.model_validate(document)


def test_every_reason_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Reason)


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (ExitCode.OK, False),
        (ExitCode.USAGE, False),
        (ExitCode.BAD_INPUT, False),
        (ExitCode.DIVERGED, False),
        (ExitCode.CRASHED, True),
        (ExitCode.TRANSIENT, True),
        (ExitCode.NOT_STORED, True),
        (ExitCode.STALLED, True),
        (ExitCode.INTERRUPTED, True),
    ],
)
def test_only_faults_that_may_pass_are_tried_again(code: ExitCode, retryable: bool) -> None:
    assert code.is_retryable is retryable


@given(st.text(max_size=2048))
def test_a_termination_message_always_fits_and_can_be_read_back(message: str) -> None:
    result = Result(
        outcome=Outcome.FAILED,
        reason=Reason.INVALID_IMAGES,
        message=message,
        retryable=False,
        stage_seconds={},
    )
    data = result.to_termination_message()
    assert len(data) <= MAX_RESULT_BYTES
    json.loads(data)
    assert Result.model_validate_json(data).reason == Reason.INVALID_IMAGES


def test_the_result_of_the_longest_places_and_reasons_keeps_what_programs_read() -> None:
    output = "s3://" + "x" * (MAX_URI_LENGTH - len("s3://"))
    result = Result(
        outcome=Outcome.SUCCEEDED,
        reason=Reason.COMPLETED,
        message="m" * 2048,
        retryable=False,
        step=1_000_000,
        total_steps=1_000_000,
        loss=0.12345678901234567,
        artifact=ArtifactStatus(
            uri=f"{output}/model.safetensors",
            digest="sha256:" + "0" * 64,
            size_bytes=2**40,
            format="kohya",
            contact_sheet_uri=f"{output}/contact-sheet.png",
            report_uri=f"{output}/report.json",
        ),
        validation=ValidationStatus(
            base_loss=0.123456,
            lora_loss=0.123456,
            improvement_percent=-100.25,
            held_out_images=1000,
            alike=16,
            compared=16,
            passed=False,
            reasons=("r" * 200,) * 4,
        ),
        stage_seconds={stage.value: 12345.678 for stage in Stage},
    )
    data = result.to_termination_message()
    assert len(data) <= MAX_RESULT_BYTES
    kept = Result.model_validate_json(data)
    assert kept.artifact == result.artifact
    assert kept.validation is not None
    assert (kept.validation.passed, kept.validation.lora_loss) == (False, 0.123456)


def test_a_shortened_message_says_that_it_was_shortened() -> None:
    result = Result(
        outcome=Outcome.FAILED,
        reason=Reason.INVALID_IMAGES,
        message="\x01" * 2048,
        retryable=False,
        stage_seconds={},
    )
    kept = Result.model_validate_json(result.to_termination_message())
    assert kept.message.endswith("[...]")


def test_a_time_without_a_zone_is_refused_before_anybody_compares_it() -> None:
    said = {"stage": "Train", "updatedAt": "2026-01-01T00:00:00"}
    with pytest.raises(ValidationError, match="updatedAt"):
        Progress.model_validate(said)
    assert Progress.model_validate({**said, "updatedAt": said["updatedAt"] + "Z"}).step == 0


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [
        ("8Gi", 8 * 1024**3),
        ("8192Mi", 8 * 1024**3),
        ("1.5G", 1_500_000_000),
        ("500M", 500_000_000),
        ("2Ti", 2 * 1024**4),
        ("8589934592", 8 * 1024**3),
    ],
)
def test_an_amount_of_memory_in_bytes(quantity: str, amount: int) -> None:
    assert memory_bytes(quantity) == amount


def test_another_attempt_has_to_get_more_memory() -> None:
    more = {"memory": 8589934591, "memoryOnRetry": "8Gi"}
    assert ResourceSettings.model_validate(more).memory_on_retry == "8Gi"
    with pytest.raises(ValidationError, match="memoryOnRetry must be above memory"):
        ResourceSettings.model_validate({"memory": "8Gi", "memoryOnRetry": "8192Mi"})
