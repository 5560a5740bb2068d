"""Files from storage into a folder: in parallel, each once, with their digests.

A module of its own because it knows nothing of datasets or models: what was fetched before and has
not changed at its source stays where it is.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from lora_api.reasons import Reason
from lora_trainer.disk import read_json, sha256_of_file, write_json
from lora_trainer.errors import TrainerError
from lora_trainer.names import refuse_unsafe_names
from lora_trainer.progress import Advance
from lora_trainer.storage import Storage, StoredFile

_PARALLEL_DOWNLOADS = 6
# What a kill may cost: so many bytes or files are fetched again, beside those on their way. The
# more files there are, the longer their manifest takes to write, and the more rarely it is.
_UNSAVED_BYTES = 64 << 20
_UNSAVED_FILES = 64
_UNSAVED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to fetch."""

    storage: Storage
    """Where it lies."""

    file: StoredFile
    """Which one it is there."""

    name: str
    """What it is called here."""


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
    wanted = [Wanted(storage, file, file.name) for file in files]
    if in_place is None:
        refuse_unsafe_names((one.file for one in wanted), storage, unsafe)
    return fetch_wanted(wanted, folder, in_place=in_place, advance=advance)


def fetch_wanted(
    wanted: Sequence[Wanted], folder: Path, *, in_place: Path | None = None, advance: Advance
) -> dict[str, str]:
    """Fetch files that may lie in several storages, under names that are known to be safe.

    Args:
        wanted: Which ones, from where.
        folder: Where to put them; the manifest of what was fetched lies beside it.
        in_place: Where the files already are; nothing is copied then, only digests are computed.
        advance: Told bytes done and bytes in all.

    Returns:
        Name to hex sha256.

    Raises:
        StorageError: A file can't be had.
    """
    manifest = _Manifest(folder.with_name(f"{folder.name}.manifest.json"))
    counter = _Counter(sum(one.file.size_bytes for one in wanted), advance)
    digests: dict[str, str] = {}

    def fetch(one: Wanted) -> str:
        target = (in_place or folder) / one.name
        known = manifest.get(one, target)
        if known is not None:
            counter.add(one.file.size_bytes)
            return known
        if in_place:
            digest = _digest_in_place(target, one.storage.field)
            counter.add(one.file.size_bytes)
        else:
            digest = one.storage.download(one.file, target, counter.add)
        manifest.put(one, digest)
        return digest

    with ThreadPoolExecutor(_PARALLEL_DOWNLOADS, thread_name_prefix="fetch") as pool:
        futures = {pool.submit(fetch, one): one.name for one in wanted}
        try:
            for future in as_completed(futures):
                digests[futures[future]] = future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            manifest.save()
    return digests


def _digest_in_place(path: Path, field: str) -> str:
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise TrainerError(
            Reason.ACCESS_DENIED,
            f"{field}: {path} can't be read ({error.strerror}); allow this user to read it",
        ) from error


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
    """What was fetched: name to source, tag and digest, kept beside the folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        found = read_json(path)
        self._entries: dict[str, Any] = found if isinstance(found, dict) else {}
        self._unsaved_bytes = 0
        self._unsaved_files = 0

    def get(self, one: Wanted, target: Path) -> str | None:
        """The digest of a file that is here and unchanged at its source; else None."""
        entry = self._entries.get(one.name)
        if not one.file.tag or not isinstance(entry, dict):
            return None
        if (entry.get("tag"), entry.get("source")) != (one.file.tag, _source(one)):
            return None
        if not target.is_file() or target.stat().st_size != one.file.size_bytes:
            return None
        return str(entry["sha256"])

    def put(self, one: Wanted, digest: str) -> None:
        """Note a file that is here whole; now and then that is saved, for a run may be killed."""
        with self._lock:
            self._entries[one.name] = {
                "tag": one.file.tag,
                "source": _source(one),
                "sha256": digest,
            }
            self._unsaved_bytes += one.file.size_bytes
            self._unsaved_files += 1
            many = max(_UNSAVED_FILES, _UNSAVED_SHARE * len(self._entries))
            if self._unsaved_bytes >= _UNSAVED_BYTES or self._unsaved_files >= many:
                self._save()

    def save(self) -> None:
        with self._lock:
            self._save()

    def _save(self) -> None:
        write_json(self._path, self._entries)
        self._unsaved_bytes = self._unsaved_files = 0


def _source(one: Wanted) -> str:
    return one.storage.describe(one.file.name)
