"""What a family keeps in float32 is computed in float32, whatever the rest is trained in."""

import torch

from lora_trainer.recipes.loading import keep_precision


def test_a_module_that_keeps_its_precision_computes_as_it_would_without_autocast() -> None:
    torch.manual_seed(1)
    layer, other = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
    values = torch.randn(4, 64)
    expected = layer(values)
    keep_precision(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(values), expected)
        assert other(values).dtype is torch.bfloat16, "autocast is on again"
