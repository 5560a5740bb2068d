"""Where a dataset lies: under a prefix, in an archive, or in single files anywhere.

A module of its own because the three differ only in how files are listed and brought here; what a
dataset may hold is the same for all (fetch_dataset).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from lora_api.reasons import Reason
from lora_api.settings import DatasetSettings
from lora_trainer.archive import Archive, ArchiveError, is_archive_name, open_archive
from lora_trainer.disk import read_json, sha256_of_file, write_json
from lora_trainer.download import Wanted, fetch_files, fetch_wanted
from lora_trainer.errors import TrainerError
from lora_trainer.faults import FileFault
from lora_trainer.names import refuse_unsafe_names
from lora_trainer.progress import Advance, share_of
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import Storage, StoredFile, open_storage

_PARALLEL_LOOKUPS = 8
# Captions and what lies beside pictures, in an archive.
_ARCHIVE_SLACK_BYTES = 64 << 20
# Of the stage, where an archive is fetched before it is unpacked.
_ARCHIVE_FETCH_PERCENT = 70.0


class Source(Protocol):
    """A dataset's files, wherever they are."""

    field: str
    """The job's field that names it."""

    where: str
    """Where, after "lies" or "lie": ``under s3://...``."""

    labels: Mapping[str, str]
    """How messages call a file, where its name alone does not say where it is named."""

    def list_files(self, advance: Advance, /) -> tuple[list[StoredFile], list[FileFault]]:
        """All files sorted by name, and those that can't be had.

        Args:
            advance: Told what is done and all there is to do, where that takes long.
        """

    def bring(self, files: Sequence[StoredFile], folder: Path, advance: Advance) -> None:
        """Have the files below `folder`, those that are there and unchanged as they are."""


def open_source(settings: DatasetSettings, *, beside: Path, stop: StopFlag) -> Source:
    """The source that the settings name.

    Args:
        settings: The dataset's.
        beside: Folder of the dataset; an archive and notes are put beside it.
        stop: Ends waits between retries.

    Raises:
        TrainerError: A URI that can't be what it is meant for; or a StorageError.
    """
    if settings.uris:
        return _Files(settings.uris, stop=stop)
    uri = settings.uri or ""
    if is_archive_name(uri):
        storage, name = _parent(uri, field="dataset.uri", stop=stop)
        found = storage.find(name)
        if found is not None:
            limit = settings.max_images * settings.max_file_bytes + _ARCHIVE_SLACK_BYTES
            return _Packed(storage, found, beside=beside, limit_bytes=limit, stop=stop)
    return _Prefix(open_storage(uri, field="dataset.uri", stop=stop), stop=stop)


class _Prefix:
    def __init__(self, storage: Storage, *, stop: StopFlag) -> None:
        self.field = storage.field
        self.where = f"under {storage.uri}"
        self.labels: Mapping[str, str] = MappingProxyType({})
        self._storage = storage
        self._stop = stop

    def list_files(self, _advance: Advance) -> tuple[list[StoredFile], list[FileFault]]:
        files = self._storage.list_files()
        if not files:
            parent, name = _parent(self._storage.uri, field=self.field, stop=self._stop)
            if name and parent.find(name) is not None:
                raise TrainerError(
                    Reason.OBJECT_NOT_FOUND,
                    f"dataset.uri: {self._storage.uri} is a file; name the folder it lies in, an "
                    "archive (.zip, .tar, .tar.gz), or single files in dataset.uris",
                )
        return files, []

    def bring(self, files: Sequence[StoredFile], folder: Path, advance: Advance) -> None:
        fetch_files(self._storage, files, folder, unsafe=Reason.INVALID_IMAGES, advance=advance)


class _Files:
    """Single files. They keep as much of their paths as tells them apart."""

    def __init__(self, uris: tuple[str, ...], *, stop: StopFlag) -> None:
        self.field = "dataset.uris"
        self.where = "in dataset.uris"
        self._wanted: dict[str, Wanted] = {}
        self._stop = stop
        self._uris = dict(zip(_names_of(uris), enumerate(uris), strict=True))
        self.labels: Mapping[str, str] = {
            name: f"uris[{place}] {name}" for name, (place, _) in self._uris.items()
        }

    def list_files(self, _advance: Advance) -> tuple[list[StoredFile], list[FileFault]]:
        with ThreadPoolExecutor(_PARALLEL_LOOKUPS, thread_name_prefix="find") as pool:
            wanted = list(pool.map(self._find, self._uris))
        missing = [name for name, one in zip(self._uris, wanted, strict=True) if one is None]
        self._wanted = {one.name: one for one in wanted if one is not None}
        files = [StoredFile(one.name, one.file.size_bytes, one.file.tag) for one in wanted if one]
        faults = [
            FileFault(name=name, text=f"is not there: {self._uris[name][1]}") for name in missing
        ]
        return sorted(files, key=lambda file: file.name), faults

    def bring(self, files: Sequence[StoredFile], folder: Path, advance: Advance) -> None:
        wanted = [self._wanted[file.name] for file in files]
        if wanted:
            refuse_unsafe_names(files, wanted[0].storage, Reason.INVALID_IMAGES)
        fetch_wanted(wanted, folder, advance=advance)

    def _find(self, name: str) -> Wanted | None:
        place, uri = self._uris[name]
        storage, last = _parent(uri, field=f"dataset.uris[{place}]", stop=self._stop)
        if is_archive_name(uri):
            raise TrainerError(
                Reason.INVALID_JOB,
                f"dataset.uris[{place}]: {uri} is an archive; name it in dataset.uri instead",
            )
        found = storage.find(last) if last else None
        return None if found is None else Wanted(storage, found, name)


class _Packed:
    def __init__(
        self,
        storage: Storage,
        file: StoredFile,
        *,
        beside: Path,
        limit_bytes: int,
        stop: StopFlag,
    ) -> None:
        self.field = "dataset.uri"
        self.where = f"in {storage.describe(file.name)}"
        self.labels: Mapping[str, str] = MappingProxyType({})
        self._storage = storage
        self._file = file
        self._limit_bytes = limit_bytes
        self._stop = stop
        self._at = (storage.folder or beside.with_name(f"{beside.name}.archive")) / file.name
        self._fetch_percent = _ARCHIVE_FETCH_PERCENT if storage.folder is None else 0.0
        self._tell: Callable[[], None] = lambda: None
        self._note = beside.with_name(f"{beside.name}.unpacked.json")

    def list_files(self, advance: Advance, /) -> tuple[list[StoredFile], list[FileFault]]:
        if self._file.size_bytes > self._limit_bytes:
            raise self._unusable(
                f"has {self._file.size_bytes >> 20} MiB, more than dataset.maxImages pictures of "
                "dataset.maxFileBytes may have"
            )
        if self._storage.folder is None:
            share = share_of(advance, 0.0, self._fetch_percent)
            fetch_files(self._storage, [self._file], self._at.parent, advance=share)
        self._tell = lambda: advance(self._fetch_percent, 100.0)
        try:
            return self._open().members()
        except ArchiveError as error:
            raise self._unusable(str(error)) from error

    def bring(self, files: Sequence[StoredFile], folder: Path, advance: Advance) -> None:
        sizes = {file.name: file.size_bytes for file in files}
        total, done = sum(sizes.values()), 0
        share = share_of(advance, self._fetch_percent, 100.0)
        self._tell = lambda: share(done, total)
        note = {"archive": sha256_of_file(self._at, look_up=self._look_up), "files": sizes}
        if read_json(self._note) == note and _has(folder, sizes):
            return advance(total, total)
        try:
            for name in self._open().unpack(set(sizes), folder):
                done += sizes[name]
                share(done, total)
        except ArchiveError as error:
            raise self._unusable(str(error)) from error
        return write_json(self._note, note)

    def _open(self) -> Archive:
        return open_archive(self._at, limit_bytes=self._limit_bytes, look_up=self._look_up)

    def _look_up(self) -> None:
        self._tell()  # how far it is may not change for long, but it is not stalled
        self._stop.check(f"reading the archive {self._storage.describe(self._file.name)}")

    def _unusable(self, why: str) -> TrainerError:
        uri = self._storage.describe(self._file.name)
        return TrainerError(
            Reason.INVALID_IMAGES, f"dataset.uri: the archive {uri} {why}; pack it anew"
        )


def _has(folder: Path, sizes: Mapping[str, int]) -> bool:
    """Whether files of these sizes are there."""
    paths = {folder / name: size for name, size in sizes.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _parent(uri: str, *, field: str, stop: StopFlag) -> tuple[Storage, str]:
    """The storage in which a single file lies, and the file's name in it."""
    scheme, _, path = uri.rstrip("/").partition("://")
    folder, _, name = path.rpartition("/")
    if scheme == "s3" and not folder:
        folder, name = name, ""  # a bucket alone
    return open_storage(f"{scheme}://{folder or '/'}", field=field, stop=stop), name


def _names_of(uris: tuple[str, ...]) -> list[str]:
    """A name for each URI: what is left of it without the folders that all share.

    Raises:
        TrainerError: InvalidJob; a URI is given twice.
    """
    counts = Counter(uris)
    twice = [uri for uri in counts if counts[uri] > 1]
    if twice:
        places = [str(place) for place, uri in enumerate(uris) if uri == twice[0]]
        raise TrainerError(
            Reason.INVALID_JOB,
            f"dataset.uris: {' and '.join(places)} are both {twice[0]}; name each file once",
        )
    parts = [uri.replace("://", "/").split("/") for uri in uris]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(part for part in one[shared:] if part) for one in parts]
