"""What may be taken out of an archive, and how.

A module of its own because an archive is a program that somebody else wrote for our file system:
its names, links, sizes and layers are judged here before a byte is written, and nothing is unpacked
that a dataset does not need.
"""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import IO, cast

from lora_trainer.disk import write_atomically
from lora_trainer.faults import FileFault
from lora_trainer.names import name_fault
from lora_trainer.storage import StoredFile

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
# 10,000 pictures, a caption for each, and room for folders and what tools leave behind.
MAX_MEMBERS = 30_000
# Before a member's content lie its names and attributes; long ones are kept in blocks of their own.
_MAX_HEADER_BYTES = 1 << 20
_SEEK_BYTES = 64 << 20
# The zip module reads the whole directory at once: 46 bytes, a name and extras for each member.
_MAX_DIRECTORY_BYTES = MAX_MEMBERS * 400
_DIRECTORY_END, _LARGE_DIRECTORY_END, _LARGE_LOCATOR = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, ValueError)
_OTHER_PACKERS = {
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"(\xb5/\xfd": "zstd",
}


class ArchiveError(Exception):
    """Why an archive as a whole can't be used, in a few words."""


class Archive(ABC):
    """An open archive.

    Args:
        path: The file.
        limit_bytes: Most bytes that its members may have together once unpacked.
        look_up: Called now and then; may raise.
    """

    def __init__(self, path: Path, *, limit_bytes: int, look_up: Callable[[], None]) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._look_up = look_up

    def members(self) -> tuple[list[StoredFile], list[FileFault]]:
        """What may be unpacked, and what may not, with the reason.

        Raises:
            ArchiveError: The archive is damaged, or holds too much.
        """
        files: list[StoredFile] = []
        faults: list[FileFault] = []
        with _named_faults():
            for number, (name, size_bytes, odd) in enumerate(self._entries(), 1):
                if number > MAX_MEMBERS:
                    raise ArchiveError(f"holds more than {MAX_MEMBERS} files and folders")
                self._look_up()
                if name.endswith("/") and odd is None:
                    continue
                fault = odd or name_fault(name)
                if fault:
                    faults.append(FileFault(name=name[:300], text=f"in the archive {fault}"))
                else:
                    files.append(StoredFile(name, size_bytes, ""))
        return _without_clashes(files, faults)

    def unpack(self, wanted: set[str], folder: Path) -> Iterator[str]:
        """Write members below a folder; yields the name of each that is done.

        Args:
            wanted: Names that `members` returned.
            folder: Where to write.

        Raises:
            ArchiveError: The archive is damaged.
        """
        with _named_faults():
            for name, source in self._contents(wanted):
                self._look_up()
                with source:
                    write_atomically(folder / name, partial(_write, source))
                yield name

    @abstractmethod
    def _entries(self) -> Iterator[tuple[str, int, str | None]]:
        """Name, size and what is wrong with it, of each entry; a folder's name ends with '/'."""

    @abstractmethod
    def _contents(self, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
        """Name and content of each wanted file."""


class _Zip(Archive):
    def _entries(self) -> Iterator[tuple[str, int, str | None]]:
        with self._open() as archive:
            for info in archive.infolist():
                odd = None if info.is_dir() else _zip_fault(info)
                yield info.filename, info.file_size, odd

    def _contents(self, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
        with self._open() as archive:
            for info in archive.infolist():
                if info.filename in wanted:
                    yield info.filename, archive.open(info)

    def _open(self) -> zipfile.ZipFile:
        if _directory_bytes(self._path) > _MAX_DIRECTORY_BYTES:
            raise ArchiveError(f"holds more than {MAX_MEMBERS} files and folders")
        return zipfile.ZipFile(self._path)


class _Tar(Archive):
    def _entries(self) -> Iterator[tuple[str, int, str | None]]:
        for _, info in self._walk():
            name = info.name.removeprefix("./")
            if info.isdir():
                yield f"{name}/", 0, None
            else:
                yield name, info.size, _tar_fault(info)

    def _contents(self, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
        for archive, info in self._walk():
            name = info.name.removeprefix("./")
            source = archive.extractfile(info) if name in wanted and info.isreg() else None
            if source is not None:
                yield name, source

    def _walk(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        """Each entry, with the archive while it stands at it; no earlier one is kept in memory."""
        with self._open() as (archive, bounded):
            while True:
                with bounded.header():
                    info = archive.next()
                if info is None:
                    return
                archive.members.clear()  # type: ignore[attr-defined]  # typeshed hides it
                yield archive, info

    @contextmanager
    def _open(self) -> Iterator[tuple[tarfile.TarFile, "_Bounded"]]:
        with self._path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            plain = gzip.GzipFile(fileobj=raw) if packed else raw
            bounded = _Bounded(
                cast(IO[bytes], plain), limit_bytes=self._limit_bytes, look_up=self._look_up
            )
            with bounded.header():  # opening reads the first member's
                archive = tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:")  # noqa: SIM115
            with archive:
                yield archive, bounded


class _Bounded(BufferedIOBase):
    """A stream of which only so much may be read: a small file can unpack to anything."""

    def __init__(self, source: IO[bytes], *, limit_bytes: int, look_up: Callable[[], None]) -> None:
        self._source = source
        self._limit_bytes = limit_bytes
        self._look_up = look_up
        self._header_bytes: int | None = None

    @contextmanager
    def header(self) -> Iterator[None]:
        """While a member's header is read, however many blocks it says that it has."""
        self._header_bytes = 0
        try:
            yield
        finally:
            self._header_bytes = None

    def read(self, size: int | None = -1, /) -> bytes:
        """What is asked for, once it is known that there is room for it."""
        asked = self._limit_bytes + 1 if size is None or size < 0 else size
        if self._header_bytes is not None:
            self._header_bytes += asked
            if self._header_bytes > _MAX_HEADER_BYTES:
                raise ArchiveError(
                    f"has a member whose name and attributes take more than "
                    f"{_MAX_HEADER_BYTES >> 20} MiB"
                )
        data = self._source.read(min(asked, max(0, self._limit_bytes - self.tell()) + 1))
        self._check()
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 0 and offset > self._limit_bytes:
            self._refuse()
        while whence == 0 and offset - self.tell() > _SEEK_BYTES:
            before = self.tell()
            self._look_up()  # of a packed stream all that is passed over is unpacked
            if self._source.seek(before + _SEEK_BYTES) == before:
                break
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def _check(self) -> None:
        if self._source.tell() > self._limit_bytes:
            self._refuse()

    def _refuse(self) -> None:
        raise ArchiveError(
            f"unpacks to more than {self._limit_bytes >> 20} MiB, which no dataset of "
            "dataset.maxImages pictures of dataset.maxFileBytes needs"
        )


def is_archive_name(uri: str) -> bool:
    """Whether a URI names an archive."""
    return uri.lower().endswith(ENDINGS)


def archive_kind(head: bytes) -> str | None:
    """What kind of archive begins with these bytes; None where it is none.

    Args:
        head: The first 512 bytes.
    """
    if head.startswith((b"PK\3\4", _DIRECTORY_END)):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for start, kind in _OTHER_PACKERS.items() if head.startswith(start)), None)


def open_archive(
    path: Path, *, limit_bytes: int, look_up: Callable[[], None] = lambda: None
) -> Archive:
    """An archive, known by its content.

    Args:
        path: The file.
        limit_bytes: Most bytes that its members may have together once unpacked.
        look_up: Called at each member and within large ones; may raise where a stop was asked for.

    Raises:
        ArchiveError: It is no zip or tar file.
    """
    with path.open("rb") as file:
        head = file.read(512)
    kind = archive_kind(head)
    if kind == "zip":
        return _Zip(path, limit_bytes=limit_bytes, look_up=look_up)
    if kind in {"tar", "gzip"}:
        return _Tar(path, limit_bytes=limit_bytes, look_up=look_up)
    if kind is not None:
        raise ArchiveError(f"is a {kind} archive; pack the pictures as .zip, .tar or .tar.gz")
    raise ArchiveError("is no .zip, .tar or .tar.gz archive")


def _zip_fault(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link; store the file itself"
    if kind not in {0, stat.S_IFREG}:
        return "is no plain file"
    if info.flag_bits & 1:
        return "is encrypted; pack it without a password"
    return None


def _tar_fault(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "is a link; store the file itself"
    if info.name.endswith("/"):
        return "is a file with a folder's name"
    return None if info.isreg() else "is no plain file"


def _without_clashes(
    files: list[StoredFile], faults: list[FileFault]
) -> tuple[list[StoredFile], list[FileFault]]:
    """Leave out names that two members have: nobody can say which is meant."""
    counts = Counter(file.name for file in files)
    folders = {
        name.rsplit("/", depth)[0] for name in counts for depth in range(1, name.count("/") + 1)
    }
    good = []
    for file in files:
        if file.name in folders:
            faults.append(FileFault(name=file.name, text="in the archive is a file and a folder"))
        elif counts[file.name] == 1:
            good.append(file)
    faults += [
        FileFault(name=name, text=f"occurs {count} times in the archive")
        for name, count in counts.items()
        if count > 1
    ]
    return sorted(good, key=lambda file: file.name), faults


def _directory_bytes(path: Path) -> int:
    """Size of a zip file's directory as its end says it; 0 where no end is found.

    Field offsets: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.14 to 4.3.16.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16) - 1024))
        tail = file.read()
    end = tail.rfind(_DIRECTORY_END)
    if end < 0 or len(tail) < end + 22:
        return 0
    large = tail.rfind(_LARGE_DIRECTORY_END, 0, end)
    if tail.find(_LARGE_LOCATOR, max(0, end - 20), end) >= 0 and large >= 0:
        return int.from_bytes(tail[large + 40 : large + 48], "little")
    return int.from_bytes(tail[end + 12 : end + 16], "little")


@contextmanager
def _named_faults() -> Iterator[None]:
    """Whatever the libraries raise on a broken archive, the archive is at fault."""
    try:
        yield
    except ArchiveError:
        raise
    except (*_UNREADABLE, RuntimeError, NotImplementedError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, e.g. no room; the libraries' own have no number
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise ArchiveError(f"is damaged ({why[0][:120]})") from error


def _write(source: IO[bytes], path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
