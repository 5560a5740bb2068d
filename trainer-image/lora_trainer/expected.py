"""What a saved LoRA must weigh, from nothing but the layers' shapes and the rank.

A module of its own because it must not trust what it checks: a file that lost layers would read
back just as it was written.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError

_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Expected:
    """What the rank predicts."""

    matrices: int
    """Down and up matrices."""

    elements: int
    """Numbers in all of them."""


def expected_of(layers: Iterable[torch.nn.Module], *, rank: int) -> Expected:
    """What a LoRA of these layers has.

    Args:
        layers: The adapted layers of the base model; weights are not looked at.
        rank: Of the LoRA.

    Raises:
        TypeError: A layer is neither linear nor a convolution.
    """
    matrices = elements = 0
    for layer in layers:
        matrices += 2
        if isinstance(layer, torch.nn.Linear):
            elements += rank * (layer.in_features + layer.out_features)
        elif isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d):
            inputs = layer.in_channels // layer.groups * prod(layer.kernel_size)
            elements += rank * (inputs + layer.out_channels)
        else:
            raise TypeError(f"a {type(layer).__name__} has no LoRA")
    return Expected(matrices, elements)


def check_size(path: Path, expected: Expected) -> int:
    """Compare a file with what the rank predicts.

    Args:
        path: The saved file.
        expected: What must be in it, besides one alpha for each pair of matrices or none.

    Returns:
        Tensors in the file.

    Raises:
        TrainerError: ArtifactMismatch.
    """
    header, header_bytes = _header(path)
    weights = {name: entry for name, entry in header.items() if not name.endswith(".alpha")}
    alphas = len(header) - len(weights)
    elements = sum(prod(entry["shape"]) for entry in weights.values())
    predicted = 8 + header_bytes + _FLOAT32_BYTES * (expected.elements + alphas)
    fits = (
        len(weights) == expected.matrices
        and alphas in {0, expected.matrices // 2}
        and elements == expected.elements
        and {entry["dtype"] for entry in header.values()} == {"F32"}
        and path.stat().st_size == predicted
    )
    if not fits:
        raise TrainerError(
            Reason.ARTIFACT_MISMATCH,
            f"{path.name} has {len(weights)} matrices of {elements} numbers, {alphas} alphas and "
            f"{path.stat().st_size} bytes; the rank predicts {expected.matrices} matrices of "
            f"{expected.elements} float32 numbers; nothing was published. Run it again; if it "
            "happens again, report it with the log",
        )
    return len(header)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, length
