"""Where pictures and models come from and results go to, behind one small protocol.

A package of its own so that nothing else in the trainer knows what S3 is: a further kind of
storage is one more file here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lora_trainer.stopping import StopFlag

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file under a storage's URI."""

    name: str
    """Path relative to the URI, with forward slashes."""

    size_bytes: int
    """Size that the storage says it has."""

    tag: str
    """Changes when the content does: the ETag, or size and time."""


class Storage(Protocol):
    """A folder somewhere, given by its URI.

    Every method raises StorageError with the reason that fits and the job's field in the message;
    passing faults have been retried by then.
    """

    uri: str
    """Where, as the job spells it, without a slash at the end."""

    field: str
    """The job's field that names it, for messages."""

    folder: Path | None
    """The files themselves where they can be read in place; None where they must be fetched."""

    def list_files(self) -> list[StoredFile]:
        """All files below the URI, sorted by name; empty where there is nothing."""

    def find(self, name: str) -> StoredFile | None:
        """One file below the URI; None where there is none of that name."""

    def download(self, file: StoredFile, target: Path, on_bytes: OnBytes) -> str:
        """Fetch a file whole or not at all.

        Args:
            file: What to fetch.
            target: Path to write.
            on_bytes: Told the number of bytes of each piece.

        Returns:
            Hex sha256 of what was written; it has been checked against what the storage knows.
        """

    def read(self, name: str, *, limit_bytes: int) -> bytes | None:
        """A small file's content; None where there is no such file."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def upload(self, source: Path, name: str, *, content_type: str) -> None:
        """Store a file and check that it arrived as it is."""

    def write(self, name: str, data: bytes) -> None:
        """Store a few bytes."""

    def create(self, name: str, data: bytes) -> bool:
        """Store a few bytes unless a file of that name is there; of several at once, one succeeds.

        Returns:
            Whether they were stored.
        """

    def delete(self, name: str) -> None:
        """Remove a file."""

    def describe(self, name: str) -> str:
        """The URI of a file below this one."""


def open_storage(uri: str, *, field: str, stop: StopFlag) -> Storage:
    """The storage that a URI names; nothing is asked of it yet.

    Args:
        uri: ``s3://bucket/prefix`` or ``file:///folder``.
        field: The job's field that names it, for messages.
        stop: Ends waits between retries.

    Raises:
        StorageError: CredentialsMissing or StorageUnreachable; the environment does not say how.
    """
    if uri.startswith("s3://"):
        from lora_trainer.storage.s3 import S3Storage

        return S3Storage(uri, field=field, stop=stop)
    from lora_trainer.storage.local import LocalStorage

    return LocalStorage(uri, field=field)
