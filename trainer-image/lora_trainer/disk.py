"""Writes that are whole or absent, and digests of what was written.

A module of its own because a run may be killed between any two bytes: whoever writes a file that
a later attempt trusts must write it this way.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

CHUNK_BYTES = 1 << 20


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, make it durable, and give it its name.

    Args:
        path: Final name; its folder is made.
        write: Writes the file whose path it is given.
    """
    with _durable(path, write) as temporary:
        temporary.replace(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    write_atomically(path, lambda temporary: _dump(temporary, data))


def create_bytes(path: Path, data: bytes) -> bool:
    """Write `data` to `path` unless something is there; of several at once, one succeeds.

    Returns:
        Whether it was written.
    """
    with _durable(path, lambda temporary: _dump(temporary, data)) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links, on which this can't be had for certain
            if path.exists():
                return False
            temporary.replace(path)
    return True


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def read_json(path: Path) -> Any | None:
    """The JSON value in `path`; None where there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def sha256_of_file(path: Path, *, look_up: Callable[[], None] = lambda: None) -> str:
    """Hex sha256 of a file's bytes.

    Args:
        path: The file.
        look_up: Called at each MiB; may raise.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            look_up()
    return digest.hexdigest()


def sha256_of_json(value: object) -> str:
    """Hex sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _durable(path: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A file beside `path` with what `write` puts there, for the block to give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # No other thread or process uses this name.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.part")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _dump(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
