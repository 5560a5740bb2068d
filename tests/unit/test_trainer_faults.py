"""What goes wrong, in the job's terms: S3 codes, system errors, numbers that are not finite."""

import errno
import ssl
from pathlib import Path

import pytest
import torch
import urllib3.exceptions as network
from minio.error import InvalidResponseError, ServerError

from lora_api.base import MAX_LOSS
from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_trainer.errors import StorageError, TrainerError, as_trainer_error
from lora_trainer.guard import FiniteGuard, Gate
from lora_trainer.stopping import StopFlag
from lora_trainer.storage.connection import connect
from lora_trainer.storage.faults import Request, from_code, translating
from lora_trainer.storage.retries import retrying
from lora_trainer.workspace import open_workspace

READING = Request(field="dataset.uri", uri="s3://b/x", bucket="b", verb="listed")
WRITING = Request(field="output.uri", uri="s3://b/y", bucket="b", verb="written", writing=True)

CODES: dict[str, tuple[Request, Reason, bool]] = {
    "NoSuchBucket": (READING, Reason.BUCKET_NOT_FOUND, False),
    "NoSuchKey": (READING, Reason.OBJECT_NOT_FOUND, False),
    "AccessDenied": (READING, Reason.ACCESS_DENIED, False),
    "InvalidAccessKeyId": (WRITING, Reason.ACCESS_DENIED, False),
    "SignatureDoesNotMatch": (WRITING, Reason.ACCESS_DENIED, False),
    "ExpiredToken": (READING, Reason.ACCESS_DENIED, False),
    "RequestTimeTooSkewed": (READING, Reason.STORAGE_UNREACHABLE, True),
    "SlowDown": (READING, Reason.STORAGE_UNREACHABLE, True),
    "InternalError": (WRITING, Reason.STORAGE_UNREACHABLE, True),
}


@pytest.mark.parametrize("code", CODES)
def test_an_s3_code_has_its_reason(code: str) -> None:
    request, reason, passing = CODES[code]
    error = from_code(code, request)
    assert (error.reason, error.passing) == (reason, passing)
    assert request.field in error.message


def test_denied_while_writing_is_an_output_that_is_not_ours() -> None:
    assert from_code("AccessDenied", WRITING).reason is Reason.OUTPUT_NOT_WRITABLE


RAISED: dict[str, tuple[Exception, bool, str]] = {
    "read timeout": (network.ReadTimeoutError(None, "/", "slow"), True, "in time"),  # type: ignore[arg-type]
    "connection cut": (network.ProtocolError("cut"), True, "not reachable"),
    "TLS cut off": (network.SSLError(ssl.SSLEOFError("EOF")), True, "not reachable"),
    "bad gateway": (ServerError("bad gateway", 502), True, "HTTP 502"),
    "a web page": (InvalidResponseError(200, "text/html", "hello"), True, "does not speak S3"),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_the_network_raises_is_an_unreachable_storage(name: str) -> None:
    raised, passing, words = RAISED[name]
    with pytest.raises(StorageError) as caught, translating(READING):
        raise raised
    assert caught.value.reason is Reason.STORAGE_UNREACHABLE
    assert caught.value.passing is passing
    assert words in caught.value.message


UNTRUSTED: dict[str, Exception] = {
    "a certificate of nobody's": ssl.SSLCertVerificationError("self-signed certificate"),
    "a bundle that does not exist": FileNotFoundError(errno.ENOENT, "No such file"),
}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_what_a_person_must_correct_about_tls_is_not_tried_again(name: str) -> None:
    expected = pytest.raises(StorageError, match=r"dataset\.uri.*AWS_CA_BUNDLE")
    with expected as caught, translating(READING):
        raise network.SSLError(UNTRUSTED[name])
    assert caught.value.reason is Reason.STORAGE_UNREACHABLE
    assert (caught.value.passing, caught.value.exit_code) == (False, ExitCode.BAD_INPUT)


# What AWS_ENDPOINT_URL is, and what of it a message may show.
ENDPOINTS = {
    "minio:9000": "'minio:9000'",
    "ftp://minio": "'ftp://minio'",
    "http://minio/bucket": "'http://minio/bucket'",
    "http://minio:port": "'http://minio:port'",
    "http://minio:99999": "'http://minio:99999'",
    "http://[::1": "'http://[::1'",
    "http://me:secret@minio": "'...@minio'",
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_that_is_no_address_is_bad_input(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL is .*http\(s\)://host") as caught:
        connect("output.uri", "s3://models/x")
    assert ENDPOINTS[endpoint] in caught.value.message
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_a_passing_fault_is_tried_four_times_and_a_lasting_one_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lora_trainer.storage.retries.DELAYS_SECONDS", (0.0, 0.0, 0.0))
    for passing, tries in ((True, 4), (False, 1)):
        calls: list[int] = []

        def fail(passing: bool = passing, calls: list[int] = calls) -> None:
            calls.append(1)
            raise StorageError(Reason.STORAGE_UNREACHABLE, "gone", passing=passing)

        with pytest.raises(StorageError):
            retrying(fail, stop=StopFlag())
        assert len(calls) == tries


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


SYSTEM: dict[str, tuple[BaseException, Reason | None]] = {
    "no space left": (OSError(errno.ENOSPC, "No space left", "x"), Reason.WORKSPACE_FULL),
    "quota exceeded": (OSError(errno.EDQUOT, "Quota"), Reason.WORKSPACE_FULL),
    "read-only": (OSError(errno.EROFS, "Read-only", "x"), Reason.WORKSPACE_NOT_WRITABLE),
    "GPU memory": (OutOfMemoryError("CUDA"), Reason.OUT_OF_GPU_MEMORY),
    "a bug": (KeyError("x"), None),
}


@pytest.mark.parametrize("name", SYSTEM)
def test_a_system_error_has_its_reason(name: str) -> None:
    raised, reason = SYSTEM[name]
    found = as_trainer_error(raised, workspace="/workspace")
    assert (found.reason if found else None) is reason


EXITS = {
    Reason.INVALID_JOB: ExitCode.BAD_INPUT,
    Reason.STORAGE_UNREACHABLE: ExitCode.TRANSIENT,
    Reason.CHECKSUM_MISMATCH: ExitCode.TRANSIENT,
    Reason.UPLOAD_FAILED: ExitCode.NOT_STORED,
    Reason.TRAINING_DIVERGED: ExitCode.DIVERGED,
    Reason.INTERRUPTED: ExitCode.INTERRUPTED,
    Reason.INTERNAL_ERROR: ExitCode.CRASHED,
}


@pytest.mark.parametrize("reason", EXITS)
def test_a_reason_has_its_exit_code(reason: Reason) -> None:
    error = TrainerError(reason, "x")
    assert error.exit_code is EXITS[reason]
    assert error.retryable is EXITS[reason].is_retryable


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("loss", "norm", "allowed"),
    [
        (1.0, 1.0, True),
        (MAX_LOSS, 1.0, True),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (INFINITE, 1.0, False),
        (2 * MAX_LOSS, 1.0, False),
    ],
)
def test_only_finite_numbers_that_can_be_reported_pass_the_gate(
    loss: float, norm: float, allowed: bool
) -> None:
    gate = Gate(torch.device("cpu"))
    refused = gate.refuses(torch.tensor(loss), torch.tensor(norm), curable=None)
    assert bool(refused) is not allowed
    guard = FiniteGuard()
    guard.saw(loss=loss, gradient_norm=norm, step=1, pictures=["a.png"])
    assert bool(guard.refused_in_a_row) is not allowed


def test_the_gate_stays_shut_by_itself_after_three_refusals_in_a_row() -> None:
    gate = Gate(torch.device("cpu"), refused_in_a_row=1)
    said = [
        bool(gate.refuses(torch.tensor(loss), torch.tensor(1.0), curable=None))
        for loss in (NAN, 1.0, NAN, NAN, NAN, 1.0)
    ]
    assert said == [True, False, True, True, True, True]


def test_an_overflow_that_a_smaller_loss_scale_cures_is_refused_but_does_not_count() -> None:
    gate = Gate(torch.device("cpu"))
    curable = torch.tensor(True)
    for _ in range(5):
        assert bool(gate.refuses(torch.tensor(1.0), torch.tensor(INFINITE), curable=curable))
    assert not bool(gate.refuses(torch.tensor(1.0), torch.tensor(1.0), curable=~curable))


def test_refusals_count_only_in_a_row_and_survive_a_checkpoint() -> None:
    guard = FiniteGuard()
    for loss in (NAN, NAN, 1.0, NAN, NAN):
        guard.saw(loss=loss, gradient_norm=1.0, step=1, pictures=["a.png"])
    resumed = FiniteGuard(guard.refused_in_a_row)
    with pytest.raises(TrainerError, match=r"3 steps in a row.*step 6.*b\.png"):
        resumed.saw(loss=NAN, gradient_norm=1.0, step=6, pictures=["b.png", "b.png"])


def test_two_runs_can_not_share_a_workspace(tmp_path: Path) -> None:
    with (
        open_workspace(tmp_path, run_id="a", key="k"),
        pytest.raises(TrainerError, match="in use") as caught,
        open_workspace(tmp_path, run_id="a", key="k"),
    ):
        pass
    assert caught.value.exit_code is ExitCode.TRANSIENT
