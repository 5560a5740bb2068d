"""The result into the output's storage: checked before training, complete or not at all.

A module of its own because it guards other people's models: it never writes over a LoRA of another
run, and it finds out before a GPU minute is spent that it may not write.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.errors import StorageError, TrainerError
from lora_trainer.progress import Advance
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import Storage

MODEL, CONFIG, REPORT, SHEET, CURVE = (
    "model.safetensors",
    "config.json",
    "report.json",
    "contact-sheet.png",
    "loss-curve.png",
)
# A right can be granted again, and hours of training wait for it. An S3 server that denies a write
# and a folder that takes none are OutputNotWritable.
_WORTH_SAVING_FROM = frozenset({Reason.ACCESS_DENIED, Reason.OUTPUT_NOT_WRITABLE})
_PROBE = ".lora-write-check"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_REPORT_BYTES = 64 << 20
_TYPES = {".json": "application/json", ".png": "image/png"}


def check_output(storage: Storage, run_id: str) -> None:
    """Prove that the output can be written and is not another run's.

    Args:
        storage: The output.
        run_id: This run.

    Raises:
        TrainerError: OutputNotWritable, or what the storage says.
    """
    _refuse_stranger(storage, run_id)
    storage.write(_PROBE, b"can this run write here?\n")
    try:
        storage.delete(_PROBE)
    except StorageError as error:
        log.warning("the write check can't be deleted again", file=_PROBE, why=error.message)


def publish(
    storage: Storage, folder: Path, *, run_id: str, advance: Advance, stop: StopFlag
) -> None:
    """Upload the result folder.

    config.json goes first, because it says whose the model is: it is created, not overwritten, so
    of two runs that store there at the same time one gets the output and the other writes nothing.
    report.json goes last, because who finds it finds everything that it lists.

    Args:
        storage: The output.
        folder: The complete result.
        run_id: This run.
        advance: Told bytes done and bytes in all.
        stop: A stop ends it between two files.

    Raises:
        TrainerError: UploadFailed for what can pass or be granted, so that only the upload is
            repeated; OutputNotWritable where another run has taken the output; else what the
            storage says. The result stays in the workspace in every case.
        InterruptedRunError: A stop was asked for.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if not path.name.startswith(".")]
    files.sort(key=lambda path: _place(path.relative_to(folder).as_posix()))
    total = sum(path.stat().st_size for path in files)
    done = 0
    try:
        _claim(storage, folder, run_id)
        for path in files:
            stop.check("storing the result")
            name = path.relative_to(folder).as_posix()
            kind = _TYPES.get(path.suffix, "application/octet-stream")
            storage.upload(path, name, content_type=kind)
            done += path.stat().st_size
            advance(done, total)
        _refuse_stranger(storage, run_id)  # a server without conditional writes let both in
    except StorageError as error:
        _release(storage, run_id)
        if not (error.retryable or error.reason in _WORTH_SAVING_FROM):
            raise
        raise not_stored(error, folder) from error


def stored_report(storage: Storage, *, run_id: str, job_digest: str) -> dict[str, Any] | None:
    """The report of this very run, where its result is stored already; it is stored last.

    Args:
        storage: The output.
        run_id: This run.
        job_digest: Digest of its job document.
    """
    text = storage.read(REPORT, limit_bytes=_MAX_REPORT_BYTES)
    try:
        report = json.loads(text or b"null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(report, dict):
        return None
    mine = report.get("runId") == run_id and report.get("jobDigest") == job_digest
    return report if mine and storage.exists(MODEL) else None


def outcome_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of a run's end, as the marker of its last stage but one has it.

    Args:
        report: A whole report.json.
    """
    return {
        "artifact": report["artifact"],
        "validation": report["scores"],
        "missing": report["leftOut"],
        "loss": report["trainingLoss"],
        "steps": report["trainedSteps"],
    }


def not_stored(error: StorageError, folder: Path) -> TrainerError:
    """What a storage's fault means once the result is complete: only the upload is repeated."""
    return TrainerError(
        Reason.UPLOAD_FAILED,
        f"trained and checked, but not stored: {error.message}. The result stays in the "
        f"workspace ({folder}); another attempt of this run repeats only the upload",
    )


def _claim(storage: Storage, folder: Path, run_id: str) -> None:
    """Make the output this run's, for as long as config.json lies there."""
    if (folder / CONFIG).is_file() and not storage.exists(MODEL):
        storage.create(CONFIG, (folder / CONFIG).read_bytes())
    _refuse_stranger(storage, run_id)


def _release(storage: Storage, run_id: str) -> None:
    """Give back an output in which no model lies, as nobody knows if another attempt comes."""
    with suppress(StorageError):  # the storage has just failed, so this may fail, too
        if _run_id_in(storage, CONFIG) == run_id and not storage.exists(MODEL):
            storage.delete(CONFIG)


def _refuse_stranger(storage: Storage, run_id: str) -> None:
    """Stop where another run has stored, or is about to."""
    owner = _run_id_in(storage, CONFIG)
    if owner == run_id:
        return
    if storage.exists(MODEL):
        lies = f"{storage.describe(MODEL)} is the model "
        lies += f"of run {owner!r}" if owner else "that no config.json claims"
        cure = "name another output.uri, or move that model away"
    elif owner is not None:
        lies = f"{storage.describe(CONFIG)} "
        lies += f"claims it for run {owner!r}" if owner else "is not of a run"
        cure = "name another output.uri, or delete that file if nobody needs it"
    else:
        return
    raise TrainerError(
        Reason.OUTPUT_NOT_WRITABLE, f"output.uri: {lies}, and this is run {run_id!r}; {cure}"
    )


def _run_id_in(storage: Storage, name: str) -> str | None:
    """The runId in a JSON file; empty where it says none, None where there is no such file."""
    text = storage.read(name, limit_bytes=_MAX_CONFIG_BYTES)
    if text is None:
        return None
    try:
        run_id = json.loads(text).get("runId")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return run_id if isinstance(run_id, str) else ""


def _place(name: str) -> tuple[int, str]:
    order = {CONFIG: 0, MODEL: 1, REPORT: 3}
    return order.get(name, 2), name
