"""The key names of a LoRA file: from peft's names to those that other people's tools read.

A module of its own because it is plain string work, which a table can test without any model. What
a layer is called in a family's file is the family's own; that it is a pair of matrices and a float
alpha is the same in all of them.

Sources of the names: sd-scripts `networks/lora.py` (`lora_unet_`, `lora_te_`, `lora_te1_`,
`lora_te2_`, SDXL's UNet in its original layout), ComfyUI `comfy/lora.py` (the key map of each
family), WAN's and FLUX's published module names.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError

_DOWN = ".lora_A.weight"
_UP = ".lora_B.weight"
# A message names this many layers.
_NAMED_LAYERS = 8

NameOf = Callable[[str], str | None]
"""Module path to the layer's name in the file; None where the format has none."""


@dataclass(frozen=True, slots=True)
class Endings:
    """What a file calls the two matrices of a layer."""

    down: str
    """Of the matrix from the layer's width to the rank."""

    up: str
    """Of the matrix from the rank to the layer's width."""


KOHYA = Endings(".lora_down.weight", ".lora_up.weight")
PEFT = Endings(_DOWN, _UP)


def layer_pairs(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Module path to the names of its down and up matrix.

    Args:
        names: ``<module path>.lora_A.weight`` and ``.lora_B.weight``.

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
        layers[path] = (name, path + _UP)
    return layers


def lora_file(
    weights: Mapping[str, torch.Tensor], *, alpha: float, name_of: NameOf, endings: Endings
) -> dict[str, torch.Tensor]:
    """The tensors of a file: two matrices and a float alpha per layer.

    Args:
        weights: As peft names them.
        alpha: The LoRA's scale.
        name_of: The family's names.
        endings: What the matrices are called.

    Raises:
        TrainerError: TargetModulesNotFound; the format has no name for a layer.
    """
    tensors = {}
    nameless = []
    for path, (down, up) in layer_pairs(weights).items():
        layer = name_of(path)
        if layer is None:
            nameless.append(path)
            continue
        tensors[f"{layer}{endings.down}"] = weights[down].contiguous()
        tensors[f"{layer}{endings.up}"] = weights[up].contiguous()
        # Tools divide it by the rank; diffusers refuses an integer.
        tensors[f"{layer}.alpha"] = torch.tensor(float(alpha))
    if nameless:
        more = f" and {len(nameless) - _NAMED_LAYERS} more" if len(nameless) > _NAMED_LAYERS else ""
        raise TrainerError(
            Reason.TARGET_MODULES_NOT_FOUND,
            f"network.targetModules: the family's LoRA files have no name for "
            f"{', '.join(nameless[:_NAMED_LAYERS])}{more}; leave them out",
        )
    return tensors


def unet_layer(path: str) -> str:
    """sd-scripts' name of a layer of SD 1.5's UNet, which it has in diffusers' words."""
    return f"lora_unet_{path.replace('.', '_')}"


def text_layer(prefix: str) -> NameOf:
    """sd-scripts' names of a CLIP text model's layers.

    Args:
        prefix: ``lora_te``, ``lora_te1`` or ``lora_te2``.
    """

    def name_of(path: str) -> str:
        # Transformers 5 has no `text_model` in CLIPTextModel any more; the files always have.
        inner = path if path.startswith("text_model.") else f"text_model.{path}"
        return f"{prefix}_{inner.replace('.', '_')}"

    return name_of


def sdxl_unet_layer(layers_per_block: int) -> NameOf:
    """sd-scripts' names of SDXL's UNet, which it has in the model's original layout.

    There, the blocks on the way down and up are numbered through, and a residual block's layers
    are numbered inside.

    Args:
        layers_per_block: Residual blocks per resolution on the way down.
    """
    stride = layers_per_block + 1  # on the way down a downsampler is one more; up, one more block

    def name_of(path: str) -> str | None:
        outer = _SDXL_OUTER.get(path)
        if outer is not None:
            return f"lora_unet_{outer}"
        match = _SDXL_BLOCK.fullmatch(path)
        if match is None:
            return None
        way, block, kind, index, inner = match.groups()
        place = _sdxl_place(way, int(block or 0), kind, int(index), stride)
        if kind == "resnets":
            inner = _SDXL_RESNET.get(inner, "")
        elif kind in {"downsamplers", "upsamplers"}:
            inner = "op" if kind == "downsamplers" else "conv"
        return f"lora_unet_{place}_{inner.replace('.', '_')}" if inner else None

    return name_of


def _sdxl_place(way: str, block: int, kind: str, index: int, stride: int) -> str:
    """Where a block of diffusers' UNet stands in the original one."""
    if way == "mid_block":
        return f"middle_block_{1 if kind == 'attentions' else 2 * index}"
    if way == "down_blocks":
        number = stride * block + 1 + (stride - 1 if kind == "downsamplers" else index)
        return f"input_blocks_{number}_{1 if kind == 'attentions' else 0}"
    number = stride * block + (stride - 1 if kind == "upsamplers" else index)
    return f"output_blocks_{number}_{('resnets', 'attentions', 'upsamplers').index(kind)}"


_SDXL_BLOCK = re.compile(
    r"(down_blocks|mid_block|up_blocks)(?:\.(\d+))?"
    r"\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_SDXL_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_SDXL_OUTER = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_1": "time_embed_0",
    "time_embedding.linear_2": "time_embed_2",
    "add_embedding.linear_1": "label_emb_0_0",
    "add_embedding.linear_2": "label_emb_0_2",
}


def wan_layer(path: str) -> str | None:
    """The name of a layer in WAN's own code, which ComfyUI and musubi-tuner read.

    Args:
        path: In diffusers' words.
    """
    match = _WAN_BLOCK.fullmatch(path)
    if match is None:
        return None
    inner = _WAN_INNER.get(match[2])
    return f"diffusion_model.blocks.{match[1]}.{inner}" if inner else None


_WAN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_WAN_INNER = {
    **{
        f"{ours}.{layer}": f"{theirs}.{short}"
        for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for layer, short in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
    },
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
