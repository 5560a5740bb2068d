"""A saved file is weighed against what its layers and rank predict, not against itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.expected import Expected, check_size, expected_of

RANK = 4
LAYERS = [torch.nn.Linear(8, 12), torch.nn.Conv2d(6, 10, (3, 3))]
Tensors = dict[str, torch.Tensor]


def _tensors() -> Tensors:
    return {
        "a.lora_down.weight": torch.zeros(RANK, 8),
        "a.lora_up.weight": torch.zeros(12, RANK),
        "a.alpha": torch.tensor(2.0),
        "b.lora_down.weight": torch.zeros(RANK, 6, 3, 3),
        "b.lora_up.weight": torch.zeros(10, RANK, 1, 1),
        "b.alpha": torch.tensor(2.0),
    }


def _saved(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path / "model.safetensors", metadata={"a": "b"})
    return path / "model.safetensors"


def test_the_prediction_follows_from_shapes_and_rank_alone() -> None:
    assert expected_of(LAYERS, rank=RANK) == Expected(4, RANK * (8 + 12 + 6 * 9 + 10))


def test_what_is_neither_linear_nor_a_convolution_has_no_prediction() -> None:
    with pytest.raises(TypeError, match="LayerNorm"):
        expected_of([torch.nn.LayerNorm(4)], rank=RANK)


def _without_alphas(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("alpha")}


@pytest.mark.parametrize("change", [lambda tensors: tensors, _without_alphas])
def test_a_file_of_the_right_weight_passes(
    change: Callable[[Tensors], Tensors], tmp_path: Path
) -> None:
    tensors = change(_tensors())
    path = _saved(tmp_path, tensors)
    assert check_size(path, expected_of(LAYERS, rank=RANK)) == len(tensors)


def _less(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: one for name, one in tensors.items() if name not in names}


def _with(name: str, tensor: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: tensor}


WRONG: dict[str, Callable[[Tensors], Tensors]] = {
    "a layer is missing": _less("b.lora_down.weight", "b.lora_up.weight", "b.alpha"),
    "a matrix is missing": _less("b.lora_up.weight"),
    "an alpha is missing": _less("b.alpha"),
    "a layer too many": _with("c.lora_down.weight", torch.zeros(RANK, 8)),
    "another rank": _with("a.lora_down.weight", torch.zeros(RANK + 1, 8)),
    "half precision": _with("a.lora_up.weight", torch.zeros(12, RANK, dtype=torch.float16)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_weighs_something_else_is_not_published(name: str, tmp_path: Path) -> None:
    path = _saved(tmp_path, WRONG[name](_tensors()))
    with pytest.raises(TrainerError, match=r"model\.safetensors.*the rank predicts") as caught:
        check_size(path, expected_of(LAYERS, rank=RANK))
    assert caught.value.reason is Reason.ARTIFACT_MISMATCH


def test_bytes_too_many_are_found(tmp_path: Path) -> None:
    path = _saved(tmp_path, _tensors())
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(TrainerError):
        check_size(path, expected_of(LAYERS, rank=RANK))
