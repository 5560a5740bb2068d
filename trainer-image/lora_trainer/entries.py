"""One file of the cache, and the entries that are kept in memory.

A module of its own because it is all that stands between a training and a disk that lies: an entry
is read whole and checked, or it counts as missing.
"""

import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock, get_ident

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

Tensors = dict[str, torch.Tensor]
_CHECKSUM = "crc32"


def write_entry(path: Path, tensors: Tensors) -> None:
    """Write an entry, whole or not at all.

    It is not forced to the disk, which takes longer than computing a small one: what a power cut
    tears, the checksum finds.

    Args:
        path: Where.
        tensors: On any device.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, metadata={_CHECKSUM: str(_checksum(plain))})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_entry(path: Path) -> Tensors | None:
    """An entry as it was written; None where it is missing or damaged.

    Args:
        path: Where.
    """
    try:
        data = path.read_bytes()
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        wanted = json.loads(data[8 : 8 + size]).get("__metadata__", {}).get(_CHECKSUM)
    except (FileNotFoundError, SafetensorError, ValueError, KeyError, AttributeError):
        return None
    except OSError:  # a sector that can't be read is as good as missing
        return None
    return tensors if wanted == str(_checksum(tensors)) else None


class HeldEntries:
    """The entries that were used last, up to a number of bytes.

    Args:
        limit_bytes: Most bytes that they have together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[Path, Tensors] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()  # batches are made in a thread of their own

    def get(self, path: Path, read: Callable[[Path], Tensors]) -> Tensors:
        """An entry, from memory or by `read`."""
        with self._lock:
            if path in self._held:
                self._held.move_to_end(path)
                return self._held[path]
        tensors = read(path)
        size = _bytes_of(tensors)
        with self._lock:
            if path not in self._held and size <= self._limit_bytes:
                self._held[path] = tensors
                self._bytes += size
            while self._bytes > self._limit_bytes:
                self._bytes -= _bytes_of(self._held.popitem(last=False)[1])
        return tensors


def _bytes_of(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _checksum(tensors: Tensors) -> int:
    """CRC-32 over the numbers, in the order of the names; against bad disks, not bad people."""
    value = 0
    for name in sorted(tensors):
        numbers = tensors[name].contiguous().reshape(-1).view(torch.uint8)
        value = zlib.crc32(numbers.numpy().data, zlib.crc32(name.encode(), value))
    return value
