"""The result into the output's storage: checked before training, complete or not at all.

A module of its own because it guards other people's models: it never writes over a LoRA of another
run, and it finds out before a GPU minute is spent that it may not write.
"""

import json
from collections.abc import Callable
from pathlib import Path

from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.errors import InterruptedRunError, StorageError, TrainerError
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import Storage

MODEL, CONFIG, REPORT, SHEET = (
    "model.safetensors",
    "config.json",
    "report.json",
    "contact-sheet.png",
)
_PROBE = ".lora-write-check"
_MAX_CONFIG_BYTES = 1 << 20
_TYPES = {".json": "application/json", ".png": "image/png"}

Advance = Callable[[float, float], None]


def check_output(storage: Storage, run_id: str) -> None:
    """Prove that the output can be written and is not another run's.

    Args:
        storage: The output.
        run_id: This run.

    Raises:
        TrainerError: OutputNotWritable, or what the storage says.
    """
    owner = _owner(storage)
    if owner is not None and owner != run_id:
        named = f"of run {owner!r}" if owner else "that no config.json claims"
        raise TrainerError(
            Reason.OUTPUT_NOT_WRITABLE,
            f"output.uri: {storage.describe(MODEL)} is the model {named}, and this is run "
            f"{run_id!r}; name another output.uri, or move that model away",
        )
    storage.write(_PROBE, b"can this run write here?\n")
    try:
        storage.delete(_PROBE)
    except StorageError as error:
        log.warning("the write check can't be deleted again", file=_PROBE, why=error.message)


def publish(
    storage: Storage, folder: Path, *, run_id: str, advance: Advance, stop: StopFlag
) -> None:
    """Upload the result folder.

    config.json goes first, because it says whose the model is; report.json last, because who
    finds it finds everything that it lists.

    Args:
        storage: The output.
        folder: The complete result.
        run_id: This run.
        advance: Told bytes done and bytes in all.
        stop: A stop ends it between two files.

    Raises:
        TrainerError: UploadFailed; the result stays in the workspace.
        InterruptedRunError: A stop was asked for.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if not path.name.startswith(".")]
    files.sort(key=lambda path: _place(path.relative_to(folder).as_posix()))
    total = sum(path.stat().st_size for path in files)
    done = 0
    try:
        owner = _owner(storage)  # another run may have finished there while this one trained
        if owner is not None and owner != run_id:
            raise TrainerError(
                Reason.OUTPUT_NOT_WRITABLE,
                f"{storage.describe(MODEL)} has become the model of run {owner!r}",
            )
        for path in files:
            stop.check("storing the result")
            name = path.relative_to(folder).as_posix()
            kind = _TYPES.get(path.suffix, "application/octet-stream")
            storage.upload(path, name, content_type=kind)
            done += path.stat().st_size
            advance(done, total)
    except InterruptedRunError:
        raise
    except TrainerError as error:
        raise TrainerError(
            Reason.UPLOAD_FAILED,
            f"trained and checked, but not stored: {error.message}. The result stays in the "
            f"workspace ({folder}); run the same job again, only the upload is repeated",
        ) from error


def _owner(storage: Storage) -> str | None:
    """The run whose model lies there: None without a model, empty where nobody claims it."""
    if not storage.exists(MODEL):
        return None
    for name in (CONFIG, REPORT):
        data = storage.read(name, limit_bytes=_MAX_CONFIG_BYTES)
        if data is None:
            continue
        try:
            run_id = json.loads(data).get("runId")
        except (ValueError, AttributeError):
            continue
        if isinstance(run_id, str) and run_id:
            return run_id
    return ""


def _place(name: str) -> tuple[int, str]:
    order = {CONFIG: 0, MODEL: 1, REPORT: 3}
    return order.get(name, 2), name
