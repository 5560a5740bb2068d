"""Folders of this machine as a storage, so that a run needs no cluster and no server.

A module of its own beside S3 because it is the other half of the same protocol, and its smallest
example.
"""

import shutil
from pathlib import Path

from lora_api.reasons import Reason
from lora_trainer.disk import create_bytes, sha256_of_file, write_atomically, write_bytes
from lora_trainer.errors import StorageError
from lora_trainer.storage import OnBytes, StoredFile


class LocalStorage:
    """A folder given as ``file:///absolute/path``.

    Args:
        uri: The URI.
        field: The job's field that names it.
    """

    def __init__(self, uri: str, *, field: str) -> None:
        self.uri = uri.rstrip("/") or uri
        self.field = field
        self.folder: Path | None = Path(uri.removeprefix("file://"))
        self._root = Path(uri.removeprefix("file://"))

    def list_files(self) -> list[StoredFile]:
        """All files below the folder."""
        if not self._root.is_dir():
            return []
        files = []
        try:
            for path in sorted(self._root.rglob("*")):
                if path.is_file():
                    files.append(_stored(path, path.relative_to(self._root).as_posix()))
        except OSError as error:
            raise self._unreadable(error) from error
        return files

    def find(self, name: str) -> StoredFile | None:
        """One file below the folder."""
        path = self._root / name
        try:
            return _stored(path, name) if path.is_file() else None
        except OSError as error:
            raise self._unreadable(error) from error

    def download(self, file: StoredFile, target: Path, on_bytes: OnBytes) -> str:
        """Copy a file."""
        source = self._root / file.name
        try:
            with source.open("rb"):
                pass
        except OSError as error:
            raise self._unreadable(error) from error
        write_atomically(target, lambda temporary: _copy(source, temporary))
        on_bytes(file.size_bytes)
        return sha256_of_file(target)

    def read(self, name: str, *, limit_bytes: int) -> bytes | None:
        """A small file's content."""
        try:
            with (self._root / name).open("rb") as file:
                return file.read(limit_bytes)
        except (FileNotFoundError, NotADirectoryError):  # a file where the folder should be
            return None
        except OSError as error:
            raise self._unreadable(error) from error

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self._root / name).is_file()

    def upload(self, source: Path, name: str, *, content_type: str) -> None:
        """Copy a file into the folder and compare digests."""
        target = self._root / name
        try:
            write_atomically(target, lambda temporary: _copy(source, temporary))
            intact = sha256_of_file(target) == sha256_of_file(source)
        except OSError as error:
            raise self._unwritable(error) from error
        if not intact:
            raise StorageError(
                Reason.CHECKSUM_MISMATCH,
                f"{self.field}: {target} differs from what was written; check the disk",
                passing=True,
            )

    def write(self, name: str, data: bytes) -> None:
        """Write a few bytes."""
        try:
            write_bytes(self._root / name, data)
        except OSError as error:
            raise self._unwritable(error) from error

    def create(self, name: str, data: bytes) -> bool:
        """Write a few bytes unless there is a file of that name."""
        try:
            return create_bytes(self._root / name, data)
        except OSError as error:
            raise self._unwritable(error) from error

    def delete(self, name: str) -> None:
        """Remove a file."""
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def describe(self, name: str) -> str:
        """The URI of a file below this one."""
        return f"{self.uri}/{name}"

    def _unreadable(self, error: OSError) -> StorageError:
        return StorageError(
            Reason.ACCESS_DENIED,
            f"{self.field}: {error.filename or self._root} can't be read ({error.strerror}); "
            "allow this user to read it or name another folder",
        )

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(
            Reason.OUTPUT_NOT_WRITABLE,
            f"{self.field}: {error.filename or self._root} can't be written ({error.strerror}); "
            "allow this user to write there or name another folder",
        )


def _stored(path: Path, name: str) -> StoredFile:
    status = path.stat()
    return StoredFile(name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
