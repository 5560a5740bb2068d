"""How far a base model that is stored in fewer bits is from the one that was given."""

import pytest
import torch

from lora_api.settings import MemoryStrategy
from lora_trainer.memory import shrink_after_adapter


class _Blocks(torch.nn.Module):
    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Sequential(layer)])

    def enable_gradient_checkpointing(self) -> None:
        """Nothing is computed here."""


def _shrunk(weight: torch.Tensor) -> torch.Tensor:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data = weight.clone()
    model = _Blocks(layer).requires_grad_(False)
    shrink_after_adapter(model, MemoryStrategy.FP8, torch.device("cpu"))
    found: torch.Tensor = layer.weight
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_eight_bits_round_each_weight_but_shift_no_channel_as_a_whole(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 1 << 16, generator=generator, dtype=torch.float64).to(dtype) * 0.02
    shrunk = _shrunk(weight).double()
    exact = weight.double()
    # The projection on the exact channel: rounding of single weights averages out of it.
    bias = (shrunk * exact).sum(1) / exact.pow(2).sum(1) - 1.0
    assert float(bias.abs().max()) < 1.5e-3  # e4m3 itself: 0.7e-3


@pytest.mark.parametrize("size", [2e-3, 0.0])
def test_a_channel_of_very_small_weights_is_not_lost_in_half_precision(size: float) -> None:
    weight = torch.full((64, 64), size, dtype=torch.float16)
    assert torch.allclose(_shrunk(weight), weight, rtol=0.07)
