"""The trainer against a real S3 server: the whole path, and every way that storage can refuse."""

import hashlib
import io
import json
import os
import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import urllib3
from minio import Minio
from minio.helpers import get_part_info
from tests.trainer.jobs import AJob
from tests.trainer.s3server import READER, ROOT, S3Server

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_api.settings import DatasetSettings
from lora_trainer.download import fetch_files
from lora_trainer.errors import InterruptedRunError, StorageError
from lora_trainer.fetch_dataset import fetch_dataset
from lora_trainer.stopping import StopFlag
from lora_trainer.storage.retries import retrying
from lora_trainer.storage.s3 import S3Storage, _part_bytes


@pytest.fixture
def s3_job(job: AJob, s3: S3Server, request: pytest.FixtureRequest) -> AJob:
    """A job whose every URI is on the S3 server, with an output of its own."""
    os.environ.update(s3.environment())
    own = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return (
        job.with_steps(2)
        .having("baseModel.uri", "s3://bases/tiny")
        .having("dataset.uri", "s3://datasets/zorp/")
        .having("output.uri", f"s3://models/{own}")
    )


def _prefix(job: AJob) -> str:
    uri: str = job.body["output"]["uri"]
    return uri.removeprefix("s3://models/")


def test_a_run_reads_from_s3_and_stores_its_result_there(s3_job: AJob, s3: S3Server) -> None:
    code, result = s3_job.run()
    assert code == ExitCode.OK, result.message
    names = s3.names("models", _prefix(s3_job))
    assert {"model.safetensors", "config.json", "report.json", "contact-sheet.png"} <= names
    assert not any(name.startswith(".") for name in names), "the write check was left behind"
    report = json.loads(s3.content("models", f"{_prefix(s3_job)}/report.json"))
    assert set(report["files"]) == names - {"report.json"}
    model = s3.content("models", f"{_prefix(s3_job)}/model.safetensors")
    assert result.artifact is not None
    assert result.artifact.digest == f"sha256:{hashlib.sha256(model).hexdigest()}"


def test_the_same_files_from_s3_and_from_a_folder_have_the_same_digests(
    s3_job: AJob, s3: S3Server, job: AJob
) -> None:
    s3_job.run()
    local = job.with_steps(2).in_workspace("local")
    local.run()
    stored = json.loads(s3.content("models", f"{_prefix(s3_job)}/report.json"))
    report = json.loads((local.output / "report.json").read_text())
    assert stored["baseModel"]["digest"] == report["baseModel"]["digest"]
    assert stored["dataset"]["digest"] == report["dataset"]["digest"]


def test_a_restart_fetches_only_what_changed(s3_job: AJob, s3: S3Server, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    s3.client.fput_object("models", "restart/a.txt", str(file))
    s3.client.fput_object("models", "restart/b.txt", str(file))
    storage = S3Storage("s3://models/restart", field="dataset.uri", stop=StopFlag())
    target = tmp_path / "here"
    fetch_files(storage, storage.list_files(), target, advance=lambda _done, _total: None)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    file.write_text("two")
    s3.client.fput_object("models", "restart/b.txt", str(file))
    fetch_files(storage, storage.list_files(), target, advance=lambda _done, _total: None)
    after = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert after["a.txt"] == before["a.txt"]
    assert after["b.txt"] != before["b.txt"]
    assert (target / "b.txt").read_text() == "two"


def test_an_archive_that_takes_long_to_fetch_says_how_far_it_is(
    s3_job: AJob, s3: S3Server, tmp_path: Path
) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(4):
            archive.writestr(f"p{number}.png", os.urandom(1 << 20))
    s3.client.fput_object("models", f"{_prefix(s3_job)}/set.zip", str(path))
    settings = DatasetSettings(uri=f"s3://models/{_prefix(s3_job)}/set.zip")
    told: list[float] = []
    fetch_dataset(
        settings,
        tmp_path / "here",
        stop=StopFlag(),
        advance=lambda done, total: told.append(done / total),
    )
    assert len({share for share in told if share < 0.7}) >= 4, "nothing said while it is fetched"
    assert told == sorted(told)
    assert told[-1] == 1.0


@dataclass(frozen=True)
class Refusal:
    """What is changed about a good job, and how it must end."""

    fields: dict[str, str]
    environment: dict[str, str]
    reason: Reason
    words: tuple[str, ...]


REFUSALS: dict[str, Refusal] = {
    "the dataset's bucket does not exist": Refusal(
        {"dataset.uri": "s3://no-such-bucket/zorp"},
        {},
        Reason.BUCKET_NOT_FOUND,
        ("dataset.uri", "'no-such-bucket'", "create it"),
    ),
    "nothing lies under the dataset's prefix": Refusal(
        {"dataset.uri": "s3://datasets/zorps"},
        {},
        Reason.OBJECT_NOT_FOUND,
        ("dataset.uri", "s3://datasets/zorps", "upload"),
    ),
    "the base model's bucket does not exist": Refusal(
        {"baseModel.uri": "s3://no-such-bucket/tiny"},
        {},
        Reason.BUCKET_NOT_FOUND,
        ("baseModel.uri", "'no-such-bucket'"),
    ),
    "nothing lies under the base model's prefix": Refusal(
        {"baseModel.uri": "s3://bases/huge"},
        {},
        Reason.BASE_MODEL_NOT_FOUND,
        ("baseModel.uri", "s3://bases/huge"),
    ),
    "the output's bucket does not exist": Refusal(
        {"output.uri": "s3://no-such-bucket/out"},
        {},
        Reason.BUCKET_NOT_FOUND,
        ("output.uri", "'no-such-bucket'"),
    ),
    "the access key does not exist": Refusal(
        {},
        {"AWS_ACCESS_KEY_ID": "nobody"},
        Reason.ACCESS_DENIED,
        ("refused the credentials", "InvalidAccessKeyId"),
    ),
    "the secret key is wrong": Refusal(
        {},
        {"AWS_SECRET_ACCESS_KEY": "guessed"},
        Reason.ACCESS_DENIED,
        ("refused the credentials", "SignatureDoesNotMatch"),
    ),
    "the credentials may read but not write": Refusal(
        {},
        {"AWS_ACCESS_KEY_ID": READER[0], "AWS_SECRET_ACCESS_KEY": READER[1]},
        Reason.OUTPUT_NOT_WRITABLE,
        ("output.uri", "AccessDenied", "write"),
    ),
    "there are no credentials": Refusal(
        {},
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        Reason.CREDENTIALS_MISSING,
        ("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "not set"),
    ),
    "the endpoint is not a URL": Refusal(
        {},
        {"AWS_ENDPOINT_URL": "minio:9000"},
        Reason.STORAGE_UNREACHABLE,
        ("AWS_ENDPOINT_URL", "'minio:9000'"),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_storage_that_refuses_is_told_apart(name: str, s3_job: AJob) -> None:
    case = REFUSALS[name]
    changed = s3_job
    for path, value in case.fields.items():
        changed = changed.having(path, value)
    os.environ.update(case.environment)
    code, result = changed.run()
    assert result.reason == case.reason, result.message
    assert all(word in result.message for word in case.words), result.message
    assert ROOT[1] not in result.message
    assert code == ExitCode.BAD_INPUT


DEAD_ENDPOINTS = {
    "nobody listens": ("http://127.0.0.1:9", "Connection refused"),
    "the name does not exist": ("http://storage.invalid:9000", "host name"),
}


@pytest.mark.parametrize("name", DEAD_ENDPOINTS)
def test_an_unreachable_endpoint_is_a_passing_fault_found_in_bounded_time(
    name: str, s3_job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, word = DEAD_ENDPOINTS[name]
    monkeypatch.setattr("lora_trainer.storage.retries.DELAYS_SECONDS", (0.01, 0.02, 0.04))
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    code, result = s3_job.run()
    assert (code, result.reason) == (ExitCode.TRANSIENT, Reason.STORAGE_UNREACHABLE)
    assert result.retryable
    assert word in result.message
    assert "AWS_ENDPOINT_URL" in result.message


def test_an_endpoint_that_accepts_and_never_answers_is_unreachable(
    s3_job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_trainer.storage.retries.DELAYS_SECONDS", (0.01,))
    monkeypatch.setattr("lora_trainer.storage.connection._READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, result = s3_job.run()
    assert (code, result.reason) == (ExitCode.TRANSIENT, Reason.STORAGE_UNREACHABLE)
    assert "did not answer in time" in result.message


def test_a_model_of_another_run_in_the_bucket_is_not_written_over(
    s3_job: AJob, s3: S3Server
) -> None:
    config = json.dumps({"runId": "somebody-else"}).encode()
    for name, data in (("config.json", config), ("model.safetensors", b"precious")):
        path = s3_job.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        s3.client.fput_object("models", f"{_prefix(s3_job)}/{name}", str(path))
    code, result = s3_job.run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.OUTPUT_NOT_WRITABLE)
    assert "'somebody-else'" in result.message
    assert s3.content("models", f"{_prefix(s3_job)}/model.safetensors") == b"precious"


_MEBI = 1 << 20
# What servers answer that encrypt, that store in parts, or that have hashes of their own.
ETAGS = {"is an MD5": None, "looks like one": "0" * 32, "is none": f"{'0' * 32}-1"}


def _with_etag(etag: str, storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = storage._client.stat_object

    def stat(bucket: str, name: str) -> object:
        found = honest(bucket, name)
        return SimpleNamespace(size=found.size, etag=etag, metadata=found.metadata)

    monkeypatch.setattr(storage._client, "stat_object", stat)


def _with_a_flipped_byte(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage what is stored on its way."""
    honest = storage._client.put_object

    def put(bucket: str, name: str, data: io.BytesIO, length: int, **rest: object) -> object:
        return honest(bucket, name, io.BytesIO(b"!" + data.read()[1:]), length, **rest)

    monkeypatch.setattr(storage._client, "put_object", put)


@pytest.mark.parametrize("name", ETAGS)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("damaged", [False, True])
def test_what_was_stored_is_compared_whatever_the_etag_is(
    name: str,
    parts: int,
    damaged: bool,
    s3_job: AJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lora_trainer.storage.retries.DELAYS_SECONDS", (0.0,))
    monkeypatch.setattr("lora_trainer.storage.s3._PART_BYTES", 5 << 20)
    storage = S3Storage(f"s3://models/{_prefix(s3_job)}", field="output.uri", stop=StopFlag())
    (tmp_path / "model").write_bytes(b"weights" * (1000 if parts == 1 else 2 * _MEBI))
    if etag := ETAGS[name]:
        _with_etag(etag, storage, monkeypatch)
    if damaged:
        _with_a_flipped_byte(storage, monkeypatch)
        with pytest.raises(StorageError, match=r"output\.uri.*did not arrive") as caught:
            storage.upload(tmp_path / "model", "model", content_type="x/y")
        assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    else:
        storage.upload(tmp_path / "model", "model", content_type="x/y")


# How many bytes: what is stored of them in parts of 5 MiB.
PARTS = {0: 1, 1: 1, 5 * _MEBI: 1, 5 * _MEBI + 1: 2, 10 * _MEBI: 2, 12 * _MEBI: 3}


@pytest.mark.parametrize("size_bytes", PARTS)
def test_a_file_too_large_for_one_part_is_stored_in_several_and_not_read_back(
    size_bytes: int,
    s3_job: AJob,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lora_trainer.storage.s3._PART_BYTES", 5 * _MEBI)
    storage = S3Storage(f"s3://models/{_prefix(s3_job)}", field="output.uri", stop=StopFlag())
    data = os.urandom(size_bytes)
    (tmp_path / "model").write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_sha256_of", None)
        storage.upload(tmp_path / "model", "model", content_type="x/y")
    stored = s3.client.stat_object("models", f"{_prefix(s3_job)}/model")
    assert s3.content("models", f"{_prefix(s3_job)}/model") == data
    assert stored.metadata["x-amz-meta-sha256"] == hashlib.sha256(data).hexdigest()
    _, dash, count = stored.etag.partition("-")
    assert (count if dash else "1") == str(PARTS[size_bytes])
    [file] = storage.list_files()
    assert storage.download(file, tmp_path / "here", lambda _: None) == storage._sha256_of("model")


@pytest.mark.parametrize("gibibytes", [0, 4, 6, 100, 5 * 1024])
def test_every_file_that_s3_can_hold_divides_into_parts_that_it_takes(gibibytes: int) -> None:
    part_bytes, count = get_part_info(gibibytes << 30, _part_bytes(gibibytes << 30))
    assert part_bytes <= 1 << 30, "held in memory"
    assert count <= 10_000


def test_of_many_that_create_an_object_at_once_one_succeeds(s3_job: AJob, s3: S3Server) -> None:
    storage = S3Storage(f"s3://models/{_prefix(s3_job)}", field="output.uri", stop=StopFlag())
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: storage.create("claim", b"%d" % n), range(8)))
    assert sum(created) == 1
    assert s3.content("models", f"{_prefix(s3_job)}/claim") == b"%d" % created.index(True)
    assert not storage.create("claim", b"late")


def test_a_stop_ends_the_wait_between_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopFlag()

    def fail() -> None:
        stop.request()
        raise StorageError(Reason.STORAGE_UNREACHABLE, "gone", passing=True)

    monkeypatch.setattr("lora_trainer.storage.retries.DELAYS_SECONDS", (3600.0,))
    with pytest.raises(InterruptedRunError):
        retrying(fail, stop=stop)


def _failing(times: float, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A server that takes the model only after some tries; returns the tries."""
    monkeypatch.setattr("lora_trainer.storage.retries.DELAYS_SECONDS", (0.01, 0.02, 0.04))
    honest = Minio.put_object
    tries: list[str] = []

    def put(self: Minio, bucket: str, name: str, *values: object, **rest: object) -> object:
        if name.endswith("/model.safetensors"):
            tries.append(name)
            if len(tries) <= times:
                raise urllib3.exceptions.ProtocolError("Connection broken")
        return honest(self, bucket, name, *values, **rest)

    monkeypatch.setattr(Minio, "put_object", put)
    return tries


def test_an_upload_that_fails_three_times_is_tried_a_fourth_time(
    s3_job: AJob, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = _failing(3, monkeypatch)
    code, result = s3_job.run()
    assert code == ExitCode.OK, result.message
    assert len(tries) == 4
    assert "report.json" in s3.names("models", _prefix(s3_job))


def test_after_the_last_try_the_lora_stays_in_the_workspace_and_only_the_upload_is_repeated(
    s3_job: AJob, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        tries = _failing(float("inf"), patch)
        code, result = s3_job.run()
    assert (code, result.reason) == (ExitCode.NOT_STORED, Reason.UPLOAD_FAILED)
    assert result.retryable
    assert len(tries) == 4
    trained = (s3_job.workspace / "result" / "model.safetensors").read_bytes()
    assert "model.safetensors" not in s3.names("models", _prefix(s3_job))
    code, result = s3_job.run()
    assert code == ExitCode.OK, result.message
    assert "Train" not in result.stage_seconds
    assert s3.content("models", f"{_prefix(s3_job)}/model.safetensors") == trained


def test_an_unsent_result_of_a_lost_workspace_waits_in_the_outputs_storage(
    s3_job: AJob, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = s3_job.ephemeral()
    refused = f"{_prefix(lost)}/model.safetensors"
    honest = Minio.put_object

    def put(self: Minio, bucket: str, name: str, *values: object, **rest: object) -> object:
        if name == refused:  # the copy beside it is taken
            raise urllib3.exceptions.ProtocolError("Connection broken")
        return honest(self, bucket, name, *values, **rest)

    with monkeypatch.context() as patch:
        patch.setattr("lora_trainer.storage.retries.DELAYS_SECONDS", (0.01,))
        patch.setattr(Minio, "put_object", put)
        assert lost.run()[0] == ExitCode.NOT_STORED
    lost.lose()
    code, result = lost.run()
    assert code == ExitCode.OK, result.message
    assert "Train" not in result.stage_seconds
    names = s3.names("models", _prefix(lost))
    assert "model.safetensors" in names
    assert not any(name.startswith(".workspace/") for name in names)
