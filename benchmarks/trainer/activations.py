"""What a training step of each published architecture keeps for its backward pass, in bytes.

Runs without weights and without a GPU: the models live on the meta device, where autograd still
says what it saves. Attention is counted as the fused kernels do it (queries, keys, values, output).
The figures are those of `lora_api/gpu_memory.py`.

    python -m benchmarks.trainer.activations
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel, WanTransformer3DModel
from peft import LoraConfig
from tests.trainer.published import SDXL_UNET

Untyped: TypeAlias = Any  # what diffusers and autograd give no types for
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


class _Fused(torch.autograd.Function):
    """Attention that keeps what the fused kernels keep."""

    @staticmethod
    def forward(
        ctx: Untyped, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> Untyped:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Untyped, *grads: torch.Tensor) -> Untyped:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


def _sd15() -> tuple[Any, dict[str, Any], int]:
    unet = UNet2DConditionModel(cross_attention_dim=768)
    given = {"timestep": _ones(1), "encoder_hidden_states": _half(1, 77, 768)}
    return unet, {"sample": _half(1, 4, 64, 64), **given}, 64 * 64


def _sdxl() -> tuple[Any, dict[str, Any], int]:
    told = {"time_ids": _half(1, 6), "text_embeds": _half(1, 1280)}
    given = {
        "timestep": _ones(1),
        "encoder_hidden_states": _half(1, 77, 2048),
        "added_cond_kwargs": told,
    }
    return UNet2DConditionModel(**SDXL_UNET), {"sample": _half(1, 4, 128, 128), **given}, 128 * 128


def _flux() -> tuple[Any, dict[str, Any], int]:
    given = {
        "hidden_states": _half(1, 64 * 64, 64),
        "timestep": _half(1),
        "guidance": _half(1),
        "pooled_projections": _half(1, 768),
        "encoder_hidden_states": _half(1, 512, 4096),
        "txt_ids": _half(512, 3),
        "img_ids": _half(64 * 64, 3),
    }
    return FluxTransformer2DModel(guidance_embeds=True), given, 128 * 128


def _wan(heads: int, layers: int, ffn: int) -> Callable[[], tuple[Any, dict[str, Any], int]]:
    def make() -> tuple[Any, dict[str, Any], int]:
        model = WanTransformer3DModel(num_attention_heads=heads, num_layers=layers, ffn_dim=ffn)
        given = {"timestep": _half(1), "encoder_hidden_states": _half(1, 512, 4096)}
        return model, {"hidden_states": _half(1, 16, 5, 60, 60), **given}, 5 * 60 * 60

    return make


def _half(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def _ones(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def measure(make: Callable[[], tuple[Any, dict[str, Any], int]]) -> dict[str, float]:
    """Bytes per latent pixel with and without checkpointing, and numbers of weights."""
    with torch.device("meta"):
        model, given, pixels = make()
    model.to(torch.bfloat16).requires_grad_(False)
    weights = sum(one.numel() for one in model.parameters())
    with torch.device("meta"):
        model.add_adapter(LoraConfig(r=1, target_modules=_TARGETS))
    lora = sum(one.numel() for one in model.parameters() if one.requires_grad)
    found: dict[str, float] = {"weights": weights, "lora weights per rank": lora}
    model.train()
    for name, change in (("all", None), ("checkpointing", "enable_gradient_checkpointing")):
        if change:
            getattr(model, change)()
        found[f"bytes per latent pixel, {name}"] = round(_saved_bytes(model, given) / pixels)
    return found


def _saved_bytes(model: Untyped, given: dict[str, Any]) -> int:
    own = {one.untyped_storage()._cdata for one in model.parameters()}
    seen: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            seen.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**given, return_dict=False)
    return sum(one.untyped_storage().nbytes() for one in seen.values())


def main() -> None:
    """Print the table."""
    torch.nn.functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: (
        _Fused.apply(query, key, value)
    )
    families = {
        "sd15": _sd15,
        "sdxl": _sdxl,
        "flux": _flux,
        "wan 1.3B": _wan(12, 30, 8960),
        "wan 14B": _wan(40, 40, 13824),
    }
    for name, make in families.items():
        print(name, measure(make), flush=True)


if __name__ == "__main__":
    main()
