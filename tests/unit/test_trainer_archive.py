"""Archives: what may be taken out, what is refused by name, and what is refused as a whole."""

import gzip
import io
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_trainer.archive import MAX_MEMBERS, ArchiveError, archive_kind, open_archive
from lora_trainer.errors import InterruptedRunError
from lora_trainer.stopping import StopFlag

LIMIT = 1 << 20
Pack = Callable[[Path], object]


def _zip(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _tar(path: Path, *infos: tarfile.TarInfo, mode: str = "w:") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info in infos:
            archive.addfile(info, io.BytesIO(b"x" * info.size))


def _info(name: str, *, size: int = 4, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, "/etc/passwd"
    return info


def _linked_zip(path: Path) -> None:
    info = zipfile.ZipInfo("link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")


def _encrypted_zip(path: Path) -> None:
    _zip(path, **{"secret.png": b"data"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(signature) + offset] |= 1
    path.write_bytes(bytes(data))


def _doubled_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")


MEMBERS: dict[str, tuple[Pack, str, str]] = {
    "a way out of a zip": (lambda path: _zip(path, **{"../../out.png": b"x"}), "out.png", "'..'"),
    "a way out of a tar": (lambda path: _tar(path, _info("../out.png")), "../out.png", "'..'"),
    "an absolute path": (lambda path: _tar(path, _info("/etc/a.png")), "/etc/a.png", "empty part"),
    "a link in a zip": (_linked_zip, "link.png", "is a link"),
    "a link in a tar": (
        lambda path: _tar(path, _info("link.png", size=0, kind=tarfile.SYMTYPE)),
        "link.png",
        "is a link",
    ),
    "a hard link": (
        lambda path: _tar(path, _info("hard.png", size=0, kind=tarfile.LNKTYPE)),
        "hard.png",
        "is a link",
    ),
    "a device": (
        lambda path: _tar(path, _info("dev.png", size=0, kind=tarfile.CHRTYPE)),
        "dev.png",
        "no plain file",
    ),
    "an encrypted member": (_encrypted_zip, "secret.png", "is encrypted"),
    "a name that occurs twice": (_doubled_zip, "a.png", "occurs 2 times"),
    "a file that is also a folder": (
        lambda path: _tar(path, _info("set"), _info("set/a.png")),
        "set",
        "a file and a folder",
    ),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_that_plays_tricks_is_refused_by_name_and_never_written(
    name: str, tmp_path: Path
) -> None:
    pack, member, words = MEMBERS[name]
    path = tmp_path / "a.archive"
    pack(path)
    archive = open_archive(path, limit_bytes=LIMIT)
    files, faults = archive.members()
    assert any(fault.name.endswith(member) and words in fault.text for fault in faults), faults
    target = tmp_path / "deep" / "here"
    list(archive.unpack({file.name for file in files}, target))
    written = {file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file()}
    assert written == {file.name for file in files}
    assert {entry.name for entry in tmp_path.iterdir()} <= {"a.archive", "deep"}


def _bomb(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        _zeros = io.BytesIO()
        with tarfile.open(fileobj=_zeros, mode="w:") as archive:
            archive.addfile(_info("zeros.png", size=8 * LIMIT), io.BytesIO(bytes(8 * LIMIT)))
        file.write(_zeros.getvalue())


def _header_bomb(kind: bytes) -> Pack:
    def pack(path: Path) -> None:
        info = tarfile.TarInfo("x")
        info.size, info.type = 1 << 30, kind
        zeros = gzip.compress(bytes(64 << 20))
        path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + zeros * 16)

    return pack


def _sparse_bomb(path: Path) -> None:
    """A member whose map of holes goes on and on."""
    info = tarfile.TarInfo("holes.png")
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[482] = 1  # the map goes on in the next block
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    block = bytearray(512)
    block[:24] = b"%011o " % 1 + b"%011o " % 1
    block[504] = 1
    path.write_bytes(gzip.compress(bytes(head) + bytes(block) * 400_000))


def _folders(path: Path) -> None:
    info = tarfile.TarInfo("d/")
    info.type = tarfile.DIRTYPE
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) * (MAX_MEMBERS + 1)))


def _peak_bytes(pack: Pack, path: Path, limit_bytes: int) -> int:
    """Most memory that listing an archive takes in a process of its own."""
    pack(path)
    code = """
import resource, sys
from pathlib import Path
from lora_trainer.archive import ArchiveError, open_archive
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_archive(Path(sys.argv[1]), limit_bytes=int(sys.argv[2])).members()
except ArchiveError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    said = subprocess.run(
        [sys.executable, "-c", code, str(path), str(limit_bytes)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(said.stdout) << 10


BOMBS: dict[str, Pack] = {
    "attributes of a gigabyte": _header_bomb(tarfile.XHDTYPE),
    "attributes of a gigabyte for all members": _header_bomb(tarfile.XGLTYPE),
    "a name of a gigabyte": _header_bomb(tarfile.GNUTYPE_LONGNAME),
    "a map of holes that goes on and on": _sparse_bomb,
    "very many folders": _folders,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_no_memory_though_pictures_might_be_large(name: str, tmp_path: Path) -> None:
    peak = _peak_bytes(BOMBS[name], tmp_path / "a.tar.gz", 100 << 30)
    assert peak < 64 << 20


def test_a_stop_is_seen_between_two_members_and_within_a_large_one(tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request()
    for number, size in enumerate((4, 200 << 20)):
        path = tmp_path / f"{number}.tar"
        _tar(path, _info("a.png", size=size), _info("b.png"))
        archive = open_archive(
            path, limit_bytes=1 << 30, look_up=lambda: stop.check("reading the archive")
        )
        with pytest.raises(InterruptedRunError):
            archive.members()


def _crowd(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(MAX_MEMBERS + 1):
            archive.writestr(f"{number}.png", b"")


def _cut(path: Path) -> None:
    _zip(path, **{"a.png": bytes(1000)})
    path.write_bytes(path.read_bytes()[:-30])


def _cut_gzip(path: Path) -> None:
    _tar(path, _info("a.png", size=50_000), mode="w:gz")
    path.write_bytes(path.read_bytes()[:-20])


WHOLES: dict[str, tuple[Pack, str]] = {
    "a small file that unpacks to much": (_bomb, "unpacks to more than 1 MiB"),
    "attributes of a gigabyte": (_header_bomb(tarfile.XHDTYPE), "attributes take more than 1 MiB"),
    "more files than any dataset has": (_crowd, f"more than {MAX_MEMBERS} files"),
    "a zip that is cut off": (_cut, "damaged"),
    "a tar.gz that is cut off": (_cut_gzip, "damaged"),
    "a gzip that holds no tar": (
        lambda path: path.write_bytes(gzip.compress(b"no tar" * 200)),
        "damaged",
    ),
    "a RAR": (lambda path: path.write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(99)), "RAR"),
    "a picture called .zip": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "no .zip"),
}


@pytest.mark.parametrize("name", WHOLES)
def test_an_archive_that_is_no_use_is_refused_as_a_whole(name: str, tmp_path: Path) -> None:
    pack, words = WHOLES[name]
    path = tmp_path / "a.archive"
    pack(path)
    with pytest.raises(ArchiveError, match=words):
        open_archive(path, limit_bytes=LIMIT).members()


def test_a_member_whose_bytes_are_damaged_is_found_when_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    _zip(path, **{"a.png": b"the content"})
    path.write_bytes(path.read_bytes().replace(b"the content", b"the c0ntent"))
    archive = open_archive(path, limit_bytes=LIMIT)
    with pytest.raises(ArchiveError, match="damaged"):
        list(archive.unpack({"a.png"}, tmp_path / "here"))
    assert [file for file in (tmp_path / "here").rglob("*") if file.is_file()] == []


GOOD: dict[str, Pack] = {
    "zip": lambda path: _zip(path, **{"set/a.png": b"xxxx"}),
    "tar": lambda path: _tar(path, _info("./set/a.png")),
    "tar.gz": lambda path: _tar(path, _info("set/a.png"), mode="w:gz"),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_archive_is_known_by_its_content_not_by_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "whatever"
    GOOD[name](path)
    archive = open_archive(path, limit_bytes=LIMIT)
    files, faults = archive.members()
    assert ([(file.name, file.size_bytes) for file in files], faults) == ([("set/a.png", 4)], [])
    assert list(archive.unpack({"set/a.png"}, tmp_path)) == ["set/a.png"]
    assert (tmp_path / "set" / "a.png").read_bytes() == b"xxxx"


def test_a_picture_is_no_archive() -> None:
    assert archive_kind(b"\x89PNG\r\n\x1a\n" + bytes(504)) is None
