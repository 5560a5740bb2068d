"""How a base model is made smaller on its device, rung by rung.

A module of its own because it is all that the trainer knows of number formats for storage; which
rung a run stands on is decided elsewhere (ladder.py), and nothing else has to know.

The base's weights are frozen, so they need no gradients and no great precision, only room:

- checkpointing: activations are computed again in the backward pass; the gradients are the same,
  a step takes about a third longer.
- fp8: checkpointing, and the blocks' weights are stored in 8 bits with one scale per output
  channel, half of bf16. diffusers' layerwise casting does this for drawing, but not for training:
  it swaps a weight's data under autograd, which then finds the wrong type in the backward pass.
- nf4: checkpointing, and the blocks' linear layers are stored in 4 bits by bitsandbytes.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any, cast

import torch

from lora_api.reasons import Reason
from lora_api.settings import MemoryStrategy
from lora_trainer.errors import TrainerError

RUNGS = (
    MemoryStrategy.NONE,
    MemoryStrategy.CHECKPOINTING,
    MemoryStrategy.FP8,
    MemoryStrategy.NF4,
)
_FP8 = torch.float8_e4m3fn
# A layer with fewer weights saves nothing that could be measured.
_WORTHWHILE_WEIGHTS = 4096
# bitsandbytes scales so many weights of a row together; on the CPU it can't cut a row otherwise.
_NF4_BLOCK = 64


def check_memory(strategy: MemoryStrategy) -> None:
    """Refuse a rung whose library is not here.

    Raises:
        TrainerError: InvalidJob with the cure.
    """
    if strategy is MemoryStrategy.NF4 and not _has_bitsandbytes():
        raise TrainerError(
            Reason.INVALID_JOB,
            "optimization.memory: nf4 needs the Python package bitsandbytes, which is not "
            "installed here; use fp8, or install it",
        )


def possible_rungs() -> list[MemoryStrategy]:
    """The rungs that this installation can stand on, from the fastest to the leanest."""
    return [rung for rung in RUNGS if rung is not MemoryStrategy.NF4 or _has_bitsandbytes()]


def may_run_out(device: torch.device) -> bool:
    """Whether a device has memory of its own, so that a trial tells what fits."""
    return device.type == "cuda"


def loads_on(strategy: MemoryStrategy, device: torch.device) -> torch.device:
    """Where the base is loaded to: one that is made smaller does not fit the device before."""
    shrinks = strategy in {MemoryStrategy.FP8, MemoryStrategy.NF4}
    return torch.device("cpu") if shrinks else device


def shrink_before_adapter(
    model: torch.nn.Module, strategy: MemoryStrategy, device: torch.device
) -> None:
    """Store the weights in 4 bits, where that is the rung: peft adapts such layers differently.

    Args:
        model: The frozen base.
        strategy: The rung.
        device: Where the quantised layers go, one by one.
    """
    if strategy is not MemoryStrategy.NF4:
        return
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent, name, layer in list(_block_layers(model)):
        if not isinstance(layer, torch.nn.Linear) or layer.in_features % _NF4_BLOCK:
            continue
        small = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=layer.weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        small.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        small.bias = layer.bias
        setattr(parent, name, small.to(device))
    marked: Any = model
    marked.is_loaded_in_4bit = True  # what peft asks


def shrink_after_adapter(
    model: torch.nn.Module, strategy: MemoryStrategy, device: torch.device
) -> None:
    """Store the weights in 8 bits, switch checkpointing on, and bring the model to its device.

    Args:
        model: The base with its adapter.
        strategy: The rung.
        device: Where it is trained.
    """
    if strategy is MemoryStrategy.FP8:
        for _, _, layer in _block_layers(model):
            _store_in_fp8(layer)
    if loads_on(strategy, device) != device:
        model.to(device)
    if strategy is not MemoryStrategy.NONE:
        capable: Any = model
        capable.enable_gradient_checkpointing()


class _StoredInFp8(torch.nn.Module):
    """A layer whose weight is computed from 8 bits whenever it is asked for."""

    stored: torch.Tensor
    scale: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        """In the type that the base had; autograd keeps it until the block's backward pass."""
        return self.stored.to(self.scale.dtype) * self.scale


class _Fp8Linear(_StoredInFp8, torch.nn.Linear):  # type: ignore[override]
    pass


class _Fp8Conv2d(_StoredInFp8, torch.nn.Conv2d):  # type: ignore[override]
    pass


def _store_in_fp8(layer: torch.nn.Linear | torch.nn.Conv2d) -> None:
    weight = layer.weight.data
    top = torch.finfo(_FP8).max
    largest = weight.float().abs().flatten(1).amax(dim=1).view(-1, *[1] * (weight.dim() - 1))
    # The next power of two: dividing by it and multiplying with it are exact, so that a channel is
    # not shifted as a whole by the rounding of its scale. A subnormal one (fp16) would be coarse.
    above = torch.exp2(torch.log2(largest / top).ceil())
    scale = above.clamp(min=torch.finfo(weight.dtype).tiny).to(weight.dtype)
    stored = (weight.float() / scale.float()).clamp(-top, top)
    del layer._parameters["weight"]
    layer.register_buffer("stored", stored.to(_FP8), persistent=False)
    layer.register_buffer("scale", scale, persistent=False)
    smaller = _Fp8Linear if isinstance(layer, torch.nn.Linear) else _Fp8Conv2d
    cast(Any, layer).__class__ = smaller


def _block_layers(
    model: torch.nn.Module,
) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear | torch.nn.Conv2d]]:
    """The frozen layers inside repeated blocks, which hold nearly all weights.

    What lies outside (first and last layer, embeddings of time and text) is small, most sensitive
    to rounding, and tells the recipes the model's number format.
    """
    for path, module in model.named_modules():
        if not any(part.isdigit() for part in path.split(".")) or ".lora_" in path:
            continue
        for name, layer in module.named_children():
            if type(layer) not in {torch.nn.Linear, torch.nn.Conv2d} or name.startswith("lora_"):
                continue
            found = cast(torch.nn.Linear | torch.nn.Conv2d, layer)
            frozen = not found.weight.requires_grad
            if frozen and found.weight.numel() >= _WORTHWHILE_WEIGHTS:
                yield module, name, found


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None
