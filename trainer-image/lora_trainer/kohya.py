"""The kohya file format: key names, metadata, and bytes that depend on nothing but the content.

A module of its own because other people's tools read these names; it is plain string work that a
table can test without any model.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

_DOWN = ".lora_A.weight"
_UP = ".lora_B.weight"


def kohya_keys(names: Iterable[str], *, prefix: str) -> dict[str, tuple[str, str]]:
    """Kohya's layer names for peft's parameter names.

    Args:
        names: ``<module path>.lora_A.weight`` and ``.lora_B.weight``.
        prefix: ``lora_unet`` for a UNet.

    Returns:
        Kohya layer name to the names of its down and up matrix.

    Raises:
        ValueError: A name is neither, or one of a pair is missing.
    """
    present = set(names)
    layers = {}
    for name in sorted(present):
        if name.endswith(_UP):
            if name.removesuffix(_UP) + _DOWN not in present:
                raise ValueError(f"{name} has no down matrix")
            continue
        if not name.endswith(_DOWN):
            raise ValueError(f"{name} is not a LoRA parameter")
        path = name.removesuffix(_DOWN)
        if path + _UP not in present:
            raise ValueError(f"{name} has no up matrix")
        layers[f"{prefix}_{path.replace('.', '_')}"] = (name, path + _UP)
    return layers


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata in a fixed order.

    The safetensors library writes metadata in the order of a randomised hash map, so the same
    content would give other bytes each time.

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


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, given at least its header's bytes."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata
