"""Dataset and base model from storage into the workspace.

A module of its own because it is where the run waits for the network: it decides what is needed,
fetches in parallel, and skips what an earlier attempt already has.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.basemodel import (
    BaseModel,
    Selection,
    check_config_sizes,
    check_weight_header,
    read_configs,
    select_files,
)
from lora_trainer.captions import MAX_CAPTION_BYTES
from lora_trainer.disk import read_json, sha256_of_file, sha256_of_json, write_json
from lora_trainer.errors import TrainerError
from lora_trainer.names import refuse_unsafe_names
from lora_trainer.recipes import RecipeDefaults
from lora_trainer.storage import Storage, StoredFile

_PARALLEL_DOWNLOADS = 6
# A picture is refused by validation above 64 MiB; nothing larger is even fetched.
MAX_DATASET_FILE_BYTES = 64 << 20
# A message names this many files.
_NAMED_FILES = 12

Advance = Callable[[float, float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedDataset:
    """The dataset's files on this machine."""

    folder: Path
    """Where they lie."""

    names: list[str]
    """Their names, relative."""

    oversized: list[str]
    """Files left where they are, because they are too large for a picture."""

    orphans: list[str]
    """Captions left where they are, because no picture has their name."""


def fetch_dataset(
    storage: Storage, folder: Path, *, max_images: int, advance: Advance
) -> FetchedDataset:
    """Bring pictures and captions here.

    Args:
        storage: Where they lie.
        folder: Where to put them.
        max_images: Most pictures that the job accepts.
        advance: Told bytes done and bytes in all.

    Raises:
        TrainerError: ObjectNotFound, TooManyImages, InvalidCaptions or InvalidImages, before
            anything is fetched; or a StorageError.
    """
    files = [file for file in storage.list_files() if not _is_hidden(file.name)]
    if not files:
        raise TrainerError(
            Reason.OBJECT_NOT_FOUND,
            f"dataset.uri: nothing lies under {storage.uri}; upload the pictures or correct "
            "dataset.uri",
        )
    pictures = [file for file in files if not _is_caption(file.name)]
    if len(pictures) > max_images:
        raise TrainerError(
            Reason.TOO_MANY_IMAGES,
            f"dataset.uri: {len(pictures)} pictures lie under {storage.uri}, "
            f"dataset.maxImages is {max_images}; remove some or raise dataset.maxImages",
        )
    stems = {stem_of(file.name) for file in pictures}
    captions = [file for file in files if _is_caption(file.name) and stem_of(file.name) in stems]
    _check_captions(captions)
    fitting = [file for file in pictures if file.size_bytes <= MAX_DATASET_FILE_BYTES] + captions
    fetch_files(storage, fitting, folder, unsafe=Reason.INVALID_IMAGES, advance=advance)
    _drop_others(folder, {file.name for file in fitting})
    return FetchedDataset(
        folder=folder,
        names=[file.name for file in fitting],
        oversized=[file.name for file in pictures if file.size_bytes > MAX_DATASET_FILE_BYTES],
        orphans=[
            file.name
            for file in files
            if _is_caption(file.name) and stem_of(file.name) not in stems
        ],
    )


def stem_of(name: str) -> str:
    """What a picture and its caption share: the name without its last ending."""
    return str(PurePosixPath(name).with_suffix(""))


def fetch_base_model(
    storage: Storage,
    folder: Path,
    recipe: RecipeDefaults,
    *,
    check: Callable[[BaseModel], None],
    advance: Advance,
) -> BaseModel:
    """Bring the base model's needed files here, or use them where they are.

    Args:
        storage: Where they lie.
        folder: Where to put them, if they must be fetched.
        recipe: Says what is needed.
        check: Looks at the configs before the weights are fetched.
        advance: Told bytes done and bytes in all.

    Raises:
        TrainerError: BaseModelNotFound, BaseModelInvalid, or a StorageError.
    """
    where = f"baseModel.uri {storage.uri}"
    files = {file.name: file for file in storage.list_files()}
    selection = select_files(files, recipe, where=where)
    small = [files[name] for name in selection.configs]
    large = [files[name] for name in selection.weights]
    check_config_sizes({file.name: file.size_bytes for file in small}, where=where)
    at = storage.folder or folder
    invalid, in_place = Reason.BASE_MODEL_INVALID, storage.folder
    digests = fetch_files(
        storage, small, folder, unsafe=invalid, in_place=in_place, advance=lambda *_: None
    )
    configs = read_configs(at, recipe, where=where)
    preview = _base_model(at, selection, configs, digests, recipe)
    check(preview)
    digests |= fetch_files(
        storage, large, folder, unsafe=invalid, in_place=in_place, advance=advance
    )
    for name in selection.weights:
        check_weight_header(at / name, name=name, where=where)
    return _base_model(at, selection, configs, digests, recipe)


def fetch_files(
    storage: Storage,
    files: Iterable[StoredFile],
    folder: Path,
    *,
    unsafe: Reason = Reason.INVALID_JOB,
    in_place: Path | None = None,
    advance: Advance,
) -> dict[str, str]:
    """Fetch files in parallel; those that are here already and unchanged are left alone.

    Args:
        storage: Where they lie.
        files: Which ones.
        folder: Where to put them; the manifest of what was fetched lies beside it.
        unsafe: Reason of the failure where a name can't be a path below `folder`.
        in_place: Where the files already are; nothing is copied then, only digests are computed.
        advance: Told bytes done and bytes in all.

    Returns:
        Name to hex sha256.

    Raises:
        TrainerError: `unsafe`, before anything is fetched; or a StorageError.
    """
    wanted = list(files)
    if in_place is None:
        refuse_unsafe_names(wanted, storage, unsafe)
    manifest = _Manifest(folder.with_name(f"{folder.name}.manifest.json"))
    counter = _Counter(sum(file.size_bytes for file in wanted), advance)
    digests: dict[str, str] = {}

    def fetch(file: StoredFile) -> str:
        target = (in_place or folder) / file.name
        known = manifest.get(file, target)
        if known is not None:
            counter.add(file.size_bytes)
            return known
        if in_place:
            digest = _digest_in_place(target, storage.field)
            counter.add(file.size_bytes)
        else:
            digest = storage.download(file, target, counter.add)
        manifest.put(file, digest)
        return digest

    with ThreadPoolExecutor(_PARALLEL_DOWNLOADS, thread_name_prefix="fetch") as pool:
        futures = {pool.submit(fetch, file): file for file in wanted}
        try:
            for future in as_completed(futures):
                digests[futures[future].name] = future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            manifest.save()
    return digests


def _base_model(
    folder: Path,
    selection: Selection,
    configs: dict[str, dict[str, Any]],
    digests: dict[str, str],
    recipe: RecipeDefaults,
) -> BaseModel:
    parts = {
        component: sha256_of_json(
            {name: digest for name, digest in digests.items() if name.startswith(f"{component}/")}
        )
        for component in recipe.components
    }
    return BaseModel(
        folder=folder,
        configs=configs,
        variants=selection.variants,
        digests=parts,
        digest=f"sha256:{sha256_of_json(digests)}",
    )


def _digest_in_place(path: Path, field: str) -> str:
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise TrainerError(
            Reason.ACCESS_DENIED,
            f"{field}: {path} can't be read ({error.strerror}); allow this user to read it",
        ) from error


def _is_caption(name: str) -> bool:
    return name.lower().endswith(".txt")


def _check_captions(captions: list[StoredFile]) -> None:
    long = [file.name for file in captions if file.size_bytes > MAX_CAPTION_BYTES]
    if long:
        more = f" and {len(long) - _NAMED_FILES} more" if len(long) > _NAMED_FILES else ""
        raise TrainerError(
            Reason.INVALID_CAPTIONS,
            f"dataset.uri: {', '.join(long[:_NAMED_FILES])}{more}: longer than "
            f"{MAX_CAPTION_BYTES} bytes, which is no caption; shorten or remove",
        )


def _is_hidden(name: str) -> bool:
    """Files that tools leave behind (.DS_Store, Thumbs.db) are nobody's picture."""
    return any(part.startswith(".") for part in name.split("/")) or name.endswith("Thumbs.db")


def _drop_others(folder: Path, names: set[str]) -> None:
    """Remove what an earlier version of the dataset left here."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            log.info("no longer in the dataset", file=path.relative_to(folder).as_posix())
            path.unlink()


class _Counter:
    """Bytes done, added up from several threads."""

    def __init__(self, total: int, advance: Advance) -> None:
        self._lock = Lock()
        self._done = 0
        self._total = total
        self._advance = advance

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._advance(self._done, self._total)


class _Manifest:
    """What was fetched: name to tag, size and digest, kept beside the folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        found = read_json(path)
        self._entries: dict[str, Any] = found if isinstance(found, dict) else {}

    def get(self, file: StoredFile, target: Path) -> str | None:
        """The digest of a file that is here and unchanged at its source; else None."""
        entry = self._entries.get(file.name)
        if not file.tag or not isinstance(entry, dict) or entry.get("tag") != file.tag:
            return None
        if not target.is_file() or target.stat().st_size != file.size_bytes:
            return None
        return str(entry["sha256"])

    def put(self, file: StoredFile, digest: str) -> None:
        with self._lock:
            self._entries[file.name] = {"tag": file.tag, "sha256": digest}

    def save(self) -> None:
        with self._lock:
            write_json(self._path, self._entries)
