"""A LoRA of FLUX under the names that sd-scripts reads.

A module of its own because it is needed after training, for one tool: diffusers and ComfyUI read
what is published, sd-scripts knows FLUX in its original layout alone, where queries, keys and
values are one matrix. Its own converter can't be used: it stops at files that leave a layer of a
block out, and overlooks alphas. The published file stays as it is, because in the other layout it
is several times as large: the joined matrices are mostly zeros.

Sources of the names: FLUX's published module names in both layouts, as sd-scripts'
`networks/convert_flux_lora.py` and diffusers' `lora_conversion_utils.py` pair them.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from lora_trainer.lora import Layer
from lora_trainer.recipes.keys import KOHYA, layer_pairs

_ALPHA = ".alpha"
_OWNER = "transformer."
# How many times wider than the model its feed-forward layers are.
_MLP_RATIO = 4

# Of a block of each kind: a layer's name to the matrix that it is, or that it is a part of.
_DOUBLE = {
    "attn.to_q": ("img_attn_qkv", 0),
    "attn.to_k": ("img_attn_qkv", 1),
    "attn.to_v": ("img_attn_qkv", 2),
    "attn.to_out.0": ("img_attn_proj", 0),
    "attn.add_q_proj": ("txt_attn_qkv", 0),
    "attn.add_k_proj": ("txt_attn_qkv", 1),
    "attn.add_v_proj": ("txt_attn_qkv", 2),
    "attn.to_add_out": ("txt_attn_proj", 0),
    "ff.net.0.proj": ("img_mlp_0", 0),
    "ff.net.2": ("img_mlp_2", 0),
    "ff_context.net.0.proj": ("txt_mlp_0", 0),
    "ff_context.net.2": ("txt_mlp_2", 0),
    "norm1.linear": ("img_mod_lin", 0),
    "norm1_context.linear": ("txt_mod_lin", 0),
}
_SINGLE = {
    "attn.to_q": ("linear1", 0),
    "attn.to_k": ("linear1", 1),
    "attn.to_v": ("linear1", 2),
    "proj_mlp": ("linear1", 3),
    "proj_out": ("linear2", 0),
    "norm.linear": ("modulation_lin", 0),
}
# Widths of a joined matrix's parts, in widths of the model.
_PARTS = {"img_attn_qkv": (1, 1, 1), "txt_attn_qkv": (1, 1, 1), "linear1": (1, 1, 1, _MLP_RATIO)}
_BLOCK = re.compile(r"(single_)?transformer_blocks\.(\d+)\.(.+)")


def convert_file(source: Path, target: Path) -> int:
    """Write a LoRA of FLUX for sd-scripts.

    Args:
        source: As it was published.
        target: The new file; metadata are carried over.

    Returns:
        How many layers it has.

    Raises:
        ValueError: The file is none of FLUX, or has a layer that sd-scripts has no name for.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    converted = to_sd_scripts(tensors)
    save_file(converted, target, metadata=metadata)
    return len(converted) // 3


def to_sd_scripts(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a published LoRA of FLUX under sd-scripts' names.

    Args:
        tensors: Two matrices and an alpha for each layer, under diffusers' names.

    Raises:
        ValueError: A name is not one of FLUX, or sd-scripts has none for it, or the parts of a
            joined matrix have different scales.
    """
    matrices = {name: one for name, one in tensors.items() if not name.endswith(_ALPHA)}
    joined: dict[str, dict[int, Layer]] = {}
    for layer, (down, up) in layer_pairs(matrices).items():
        name, place = _place(layer)
        rank = len(tensors[down])
        alpha = float(tensors.get(layer + _ALPHA, torch.tensor(rank)))
        joined.setdefault(name, {})[place] = Layer(tensors[down], tensors[up], alpha / rank)
    return {
        f"{name}{ending}": tensor
        for name, parts in joined.items()
        for ending, tensor in _layer(name, parts).items()
    }


def _place(layer: str) -> tuple[str, int]:
    """The matrix that a layer is in, and which part of it."""
    match = _BLOCK.fullmatch(layer.removeprefix(_OWNER))
    if match is None or not layer.startswith(_OWNER):
        raise ValueError(f"{layer} is no layer of a FLUX block; only a LoRA of FLUX is converted")
    single, number, inner = match.groups()
    found = (_SINGLE if single else _DOUBLE).get(inner)
    if found is None:
        raise ValueError(f"{layer}: sd-scripts has no name for it")
    return f"lora_unet_{'single' if single else 'double'}_blocks_{number}_{found[0]}", found[1]


def _layer(name: str, parts: Mapping[int, Layer]) -> dict[str, torch.Tensor]:
    """One layer of the file; the parts of a joined matrix keep their ranks, side by side.

    Args:
        name: The matrix.
        parts: Those of its parts that are there.
    """
    down = torch.cat([parts[place].down for place in sorted(parts)])
    scale = next(iter(parts.values())).scale
    if any(part.scale != scale for part in parts.values()):
        raise ValueError(f"{name}: its parts have different alphas, and it has room for one")
    return {
        KOHYA.down: down.contiguous(),
        KOHYA.up: _joined_up(name, parts, width=down.shape[1]).contiguous(),
        # A joined matrix has the ranks of all its parts; what counts is alpha / rank.
        _ALPHA: torch.tensor(scale * len(down)),
    }


def _joined_up(name: str, parts: Mapping[int, Layer], *, width: int) -> torch.Tensor:
    """[out, rank]: each part's own rows and ranks, zeros elsewhere."""
    widths = _PARTS.get(name.rsplit("_blocks_", 1)[1].split("_", 1)[1])
    if widths is None:
        return parts[0].up
    first = next(iter(parts.values())).up
    up = first.new_zeros(sum(widths) * width, sum(part.up.shape[1] for part in parts.values()))
    rank = 0
    for place in sorted(parts):
        one = parts[place].up
        row = sum(widths[:place]) * width
        up[row : row + len(one), rank : rank + one.shape[1]] = one
        rank += one.shape[1]
    return up
