"""Metadata of a safetensors file, and bytes that depend on nothing but the content.

A module of its own because the safetensors library writes metadata in the order of a randomised
hash map, so that the same content would give other bytes each time.
"""

import json
from collections.abc import Mapping
from typing import Any


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata in a fixed order.

    Args:
        data: A safetensors file without metadata.
        metadata: Key to text.

    Returns:
        The file with the metadata; tensor data stays aligned to 8 bytes.
    """
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
