"""A finished result on its way to the output: what is worth another attempt, and whose it is."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_trainer.errors import StorageError, TrainerError
from lora_trainer.publish import check_output, publish
from lora_trainer.stopping import StopFlag
from lora_trainer.storage.local import LocalStorage


class ADisturbedFolder(LocalStorage):
    """A folder to which something happens after a file was stored."""

    def __init__(self, folder: Path, after: dict[str, Callable[[], object]] | None = None) -> None:
        super().__init__(f"file://{folder}", field="output.uri")
        self._after = after or {}

    def upload(self, source: Path, name: str, *, content_type: str) -> None:
        super().upload(source, name, content_type=content_type)
        self._after.get(name, lambda: None)()


def a_result(folder: Path, run_id: str = "mine") -> Path:
    folder.mkdir()
    config = json.dumps({"runId": run_id})
    for name, text in (
        ("config.json", config),
        ("model.safetensors", f"weights of {run_id}"),
        ("contact-sheet.png", "picture"),
        ("report.json", config),
    ):
        (folder / name).write_text(text)
    return folder


def _publish(storage: LocalStorage, result: Path) -> None:
    publish(storage, result, run_id="mine", advance=lambda _done, _total: None, stop=StopFlag())


FAULTS: dict[str, tuple[StorageError, Reason, ExitCode]] = {
    "the network is gone": (
        StorageError(Reason.STORAGE_UNREACHABLE, "gone", passing=True),
        Reason.UPLOAD_FAILED,
        ExitCode.NOT_STORED,
    ),
    "a proxy changes data": (
        StorageError(Reason.CHECKSUM_MISMATCH, "differs", passing=True),
        Reason.UPLOAD_FAILED,
        ExitCode.NOT_STORED,
    ),
    "the token has expired": (
        StorageError(Reason.ACCESS_DENIED, "ExpiredToken"),
        Reason.UPLOAD_FAILED,
        ExitCode.NOT_STORED,
    ),
    "the right to write was withdrawn": (
        StorageError(Reason.OUTPUT_NOT_WRITABLE, "AccessDenied"),
        Reason.UPLOAD_FAILED,
        ExitCode.NOT_STORED,
    ),
    "the bucket was deleted": (
        StorageError(Reason.BUCKET_NOT_FOUND, "no bucket"),
        Reason.BUCKET_NOT_FOUND,
        ExitCode.BAD_INPUT,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_only_what_can_pass_or_be_granted_is_worth_another_upload(
    name: str, tmp_path: Path
) -> None:
    raised, reason, code = FAULTS[name]

    def fail() -> None:
        raise raised

    storage = ADisturbedFolder(tmp_path / "out", {"config.json": fail})
    with pytest.raises(TrainerError) as caught:
        _publish(storage, a_result(tmp_path / "result"))
    assert (caught.value.reason, caught.value.exit_code) == (reason, code)
    assert raised.message in caught.value.message


def test_an_output_that_became_another_runs_is_bad_input_and_stays_as_it_is(
    tmp_path: Path,
) -> None:
    theirs = a_result(tmp_path / "out", run_id="theirs")
    with pytest.raises(TrainerError, match=r"'theirs'.*name another") as caught:
        _publish(ADisturbedFolder(theirs), a_result(tmp_path / "result"))
    assert caught.value.reason is Reason.OUTPUT_NOT_WRITABLE
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert (theirs / "model.safetensors").read_text() == "weights of theirs"


def test_of_two_runs_that_store_at_once_one_gets_the_output_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = {name: a_result(tmp_path / name, run_id=name) for name in ("one", "two")}
    gate = threading.Barrier(2)

    def store(run_id: str) -> bool:
        storage = LocalStorage(f"file://{out}", field="output.uri")
        gate.wait()
        try:
            publish(
                storage,
                results[run_id],
                run_id=run_id,
                advance=lambda _done, _total: None,
                stop=StopFlag(),
            )
        except TrainerError as error:
            assert error.reason is Reason.OUTPUT_NOT_WRITABLE
            return False
        return True

    with ThreadPoolExecutor() as pool:
        stored = dict(zip(results, pool.map(store, results), strict=True))
    assert sorted(stored.values()) == [False, True]
    winner = next(name for name, done in stored.items() if done)
    for path in results[winner].iterdir():
        assert (out / path.name).read_text() == path.read_text()


CLAIMS = {
    "another run that has not stored its model yet": ('{"runId": "theirs"}', "for run 'theirs'"),
    "nobody's: some program's settings": ('{"hidden_size": 8}', "is not of a run"),
    "not JSON": ("hello", "is not of a run"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_without_a_model_is_respected_before_and_after_training(
    name: str, tmp_path: Path
) -> None:
    text, says = CLAIMS[name]
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text(text)
    storage = LocalStorage(f"file://{out}", field="output.uri")
    result = a_result(tmp_path / "result")
    attempts: list[Callable[[], None]] = [
        lambda: check_output(storage, "mine"),
        lambda: _publish(storage, result),
    ]
    for attempt in attempts:
        with pytest.raises(TrainerError, match=f"{says}.*delete that file") as caught:
            attempt()
        assert caught.value.reason is Reason.OUTPUT_NOT_WRITABLE
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert (out / "config.json").read_text() == text


def test_an_upload_that_failed_before_its_model_leaves_the_output_to_others(
    tmp_path: Path,
) -> None:
    def fail() -> None:
        raise StorageError(Reason.OUTPUT_NOT_WRITABLE, "AccessDenied")

    out, result = tmp_path / "out", a_result(tmp_path / "result")
    for place, kept in (("config.json", []), ("model.safetensors", ["config", "model"])):
        with pytest.raises(TrainerError):
            _publish(ADisturbedFolder(out, {place: fail}), result)
        assert sorted(path.stem for path in out.iterdir()) == kept


def test_where_writes_have_no_conditions_the_run_that_lost_the_claim_fails(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"

    def claim() -> None:
        (out / "config.json").write_text(json.dumps({"runId": "theirs"}))

    with pytest.raises(TrainerError, match="'theirs'") as caught:
        _publish(ADisturbedFolder(out, {"report.json": claim}), a_result(tmp_path / "result"))
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_a_result_is_stored_whole_and_may_be_stored_again(tmp_path: Path) -> None:
    result = a_result(tmp_path / "result")
    storage = ADisturbedFolder(tmp_path / "out")
    for _ in range(2):
        _publish(storage, result)
    names = {path.name for path in result.iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
