"""A seeded program that makes broken inputs: the same seed, the same bytes.

Run it to look at them: ``python -m tests.broken FOLDER [SEED]``.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.datasets import a_picture

Chance = random.Random


@dataclass(frozen=True)
class Broken:
    """One broken input: files to put beside good pictures."""

    kind: str
    files: dict[str, bytes]
    culprit: str
    """What the trainer must name."""

    is_archive: bool = False
    """Whether the culprit is the dataset, instead of a file in it."""


def broken_inputs(seed: int, count: int) -> list[Broken]:
    """As many as asked for, all kinds in turn, each with a name of its own."""
    chance = Chance(seed)
    kinds = sorted(_KINDS)
    made = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        made.append(_KINDS[kind](f"{number:03d}-{kind}", chance))
    return made


def _encoded(chance: Chance, form: str, *, side: int = 96, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    a_picture(chance.getrandbits(32), side, side).convert(mode).save(buffer, form)
    return buffer.getvalue()


def _cut(data: bytes, chance: Chance) -> bytes:
    return data[: int(len(data) * chance.uniform(0.1, 0.9))]


def _file(name: str, data: bytes) -> Broken:
    return Broken(name, {name: data}, name)


def _truncated(form: str, mode: str = "RGB") -> Callable[[str, Chance], Broken]:
    ending = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[form]
    return lambda name, chance: _file(
        f"{name}.{ending}", _cut(_encoded(chance, form, mode=mode), chance)
    )


def _wrong_type(name: str, chance: Chance) -> Broken:
    contents = [
        b"%PDF-1.7\n" + chance.randbytes(500),
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        b"\x7fELF" + chance.randbytes(300),
        b"ID3\x03" + chance.randbytes(300),
        json.dumps({"file_name": "x.png"}).encode(),
        chance.randbytes(1000),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
    ]
    return _file(f"{name}.{chance.choice(['jpg', 'png', 'webp'])}", chance.choice(contents))


def _other_format(name: str, chance: Chance) -> Broken:
    form, mode = chance.choice(
        [("GIF", "P"), ("BMP", "RGB"), ("TIFF", "CMYK"), ("TIFF", "F"), ("TIFF", "LAB")]
    )
    buffer = io.BytesIO()
    picture = a_picture(chance.getrandbits(32))
    # Pillow converts to few modes directly; the bytes of another one will do.
    odd = Image.new(mode, picture.size) if mode in {"F", "LAB"} else picture.convert(mode)
    odd.save(buffer, form)
    return _file(f"{name}.png", buffer.getvalue())


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def _png(width: int, height: int, *chunks: bytes, bits: int = 8, colours: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(chunks) + _chunk(b"IEND", b"")


def _bomb(name: str, chance: Chance) -> Broken:
    side = chance.randint(11_000, 60_000)
    return _file(f"{name}.png", _png(side, side, _chunk(b"IDAT", zlib.compress(bytes(99)))))


def _text_bomb(name: str, chance: Chance) -> Broken:
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20)))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(97 * 3 * 96)))
    return _file(f"{name}.png", _png(96, 96, text, pixels))


def _odd_header(name: str, chance: Chance) -> Broken:
    bits, colours = chance.choice([(3, 2), (8, 5), (16, 3), (0, 0), (255, 255)])
    pixels = _chunk(b"IDAT", zlib.compress(bytes(96 * 300)))
    return _file(f"{name}.png", _png(96, 96, pixels, bits=bits, colours=colours))


def _no_pixels(name: str, chance: Chance) -> Broken:
    side = chance.choice([0, 96])
    return _file(f"{name}.png", _png(side, side))


def _damaged_checksum(name: str, chance: Chance) -> Broken:
    data = bytearray(_encoded(chance, "PNG"))
    data[20] ^= 0xFF  # within the header, whose checksum then does not fit
    return _file(f"{name}.png", bytes(data))


def _garbage_after_start(name: str, chance: Chance) -> Broken:
    start = chance.choice([b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x10\x00\x00WEBP"])
    return _file(f"{name}.jpg", start + chance.randbytes(2000))


def _animated(name: str, chance: Chance) -> Broken:
    form = chance.choice(["WEBP", "PNG"])
    frames = [a_picture(chance.getrandbits(32)) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    return _file(f"{name}.{form.lower()}", buffer.getvalue())


def _small(name: str, chance: Chance) -> Broken:
    return _file(f"{name}.png", _encoded(chance, "PNG", side=chance.randint(1, 63)))


def _large_file(name: str, chance: Chance) -> Broken:
    return _file(f"{name}.png", _encoded(chance, "PNG") + bytes(10_000_001))


def _phone(name: str, chance: Chance) -> Broken:
    brand = chance.choice([b"heic", b"avif", b"mif1"])
    return _file(f"{name}.jpg", b"\0\0\0\x18ftyp" + brand + chance.randbytes(500))


def _video(name: str, chance: Chance) -> Broken:
    start = chance.choice([b"\0\0\0\x18ftypisom", b"\x1a\x45\xdf\xa3"])
    return _file(f"{name}.png", start + chance.randbytes(500))


def _odd_name(name: str, chance: Chance) -> Broken:
    odd = chance.choice(["\udcff", "ü" * 90, "'; rm -rf", "\n", "\u202e", "%2e%2e"])
    return _file(f"{name}{odd}.png", b"no picture")


def _caption(name: str, chance: Chance) -> Broken:
    words = chance.choice(
        [
            "Müller am Fluß".encode("latin-1"),
            "a cat".encode("utf-16"),
            "a cat".encode("utf-32"),
            "猫の写真".encode("shift_jis"),
            b"a\0cat",
            b"\x1b[31ma cat",
            b" \r\n\t",
            b"",
            b"\xed\xa0\x80",
            b"word " * 5000,
        ]
    )
    return Broken(
        name, {f"{name}.png": _encoded(chance, "PNG"), f"{name}.txt": words}, f"{name}.txt"
    )


def _metadata(name: str, chance: Chance) -> Broken:
    line = chance.choice(
        [
            b"{",
            b"[" * 50_000,
            b"null",
            b'{"text": "x"}',
            b'{"file_name": "a.png"}',
            b'{"file_name": "a.png", "text": ""}',
            b'{"file_name": 1, "text": "x"}',
            '{"file_name": "ü", "text": "x"}'.encode("latin-1"),
            b'{"file_name": "a.png", "text": "\\ud800"}',
            b'{"file_name": "a.png", "text": "x"}\n{"file_name": "a.png", "text": "y"}',
        ]
    )
    return Broken(name, {f"{name}/metadata.jsonl": line}, f"{name}/metadata.jsonl")


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data)  # without the time of day
    return buffer.getvalue()


def _tar_of(info: tarfile.TarInfo, data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as archive:
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _nested(name: str, chance: Chance) -> Broken:
    data = chance.choice([_zip_of(a=b"x"), _gzip(b"x" * 999), b"Rar!\x1a\x07" + bytes(99)])
    return _file(f"{name}.png", data)


def _damaged_archive(name: str, chance: Chance) -> Broken:
    whole = _zip_of(**{"a.png": _encoded(chance, "PNG")})
    data = chance.choice(
        [
            b"",
            chance.randbytes(500),
            _cut(whole, chance),
            _gzip(chance.randbytes(2000)),
            _cut(_gzip(_tar_of(tarfile.TarInfo("a.png"))), chance),
            b"7z\xbc\xaf\x27\x1c" + chance.randbytes(100),
            b"PK\5\6" + bytes(18),
        ]
    )
    archive = f"{name}.{chance.choice(['zip', 'tar', 'tar.gz'])}"
    return Broken(name, {archive: data}, archive, is_archive=True)


def _archive_bomb(name: str, chance: Chance) -> Broken:
    info = tarfile.TarInfo("zeros.png")
    info.size = 400 << 20
    archive = f"{name}.tar.gz"
    head = tarfile.TarInfo.tobuf(info)
    # The zeros are packed once: a gzip file may have several parts.
    part = _gzip(bytes(8 << 20))
    return Broken(name, {archive: _gzip(head) + part * 51}, archive, is_archive=True)


def _header(kind: bytes, size: int, name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def _header_bomb(name: str, chance: Chance) -> Broken:
    """A member whose attributes, or name, unpack to more than a machine has."""
    kind = chance.choice([tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
    archive = f"{name}.tar.gz"
    head = _gzip(_header(kind, 3 << 29, "x"))
    part = _gzip(bytes(64 << 20))
    return Broken(name, {archive: head + part * 24}, archive, is_archive=True)


def _folder_bomb(name: str, chance: Chance) -> Broken:
    """A million and a half folders."""
    archive = f"{name}.tar.gz"
    part = _gzip(_header(tarfile.DIRTYPE, 0, f"d{chance.randint(0, 9)}/") * 50_000)
    return Broken(name, {archive: part * 30}, archive, is_archive=True)


def _archive_tricks(name: str, chance: Chance) -> Broken:
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../etc/passwd"
    out = tarfile.TarInfo("../../out.png")
    data, culprit = chance.choice(
        [
            (_tar_of(link), "link.png"),
            (_tar_of(out), "../../out.png"),
            (_zip_of(**{"../../out.png": b"x"}), "../../out.png"),
            (_zip_of(**{"/etc/out.png": b"x"}), "out.png"),
        ]
    )
    archive = f"{name}.zip"
    return Broken(name, {archive: data}, culprit, is_archive=True)


_KINDS: dict[str, Callable[[str, Chance], Broken]] = {
    "animated": _animated,
    "archive-bomb": _archive_bomb,
    "archive-tricks": _archive_tricks,
    "bomb": _bomb,
    "caption": _caption,
    "damaged-archive": _damaged_archive,
    "damaged-checksum": _damaged_checksum,
    "empty": lambda name, _: _file(f"{name}.jpg", b""),
    "folder-bomb": _folder_bomb,
    "garbage": _garbage_after_start,
    "header-bomb": _header_bomb,
    "jpeg-cut": _truncated("JPEG"),
    "jpeg-cmyk-cut": _truncated("JPEG", "CMYK"),
    "large-file": _large_file,
    "metadata": _metadata,
    "nested-archive": _nested,
    "no-pixels": _no_pixels,
    "odd-header": _odd_header,
    "odd-name": _odd_name,
    "other-format": _other_format,
    "phone": _phone,
    "png-cut": _truncated("PNG"),
    "png-grey-alpha-cut": _truncated("PNG", "LA"),
    "small": _small,
    "text-bomb": _text_bomb,
    "video": _video,
    "webp-cut": _truncated("WEBP"),
    "wrong-type": _wrong_type,
}


def main(folder: str, seed: str = "1") -> None:
    """Write the hundred of a seed to a folder."""
    for broken in broken_inputs(int(seed), 100):
        for name, data in broken.files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
