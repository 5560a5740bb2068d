"""Single-file checkpoints in the families' original layouts, made from miniature base models.

The names are those of the published checkpoints: `ldm` (CompVis) for Stable Diffusion, and the
code that FLUX and WAN were published with. They are spelled here on their own, so that a loader
that misreads them is found out.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]
_LDM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_LDM_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def sd15_checkpoint(base: Path, target: Path, *, layers_per_block: int) -> Path:
    """UNet, VAE and text encoder of a Stable Diffusion 1.5 in one file."""
    whole = _ldm(base, layers_per_block) | _clip(base, "cond_stage_model")
    return _written(whole, target)


def sdxl_checkpoint(base: Path, target: Path, *, layers_per_block: int) -> Path:
    """UNet, VAE and both text encoders of a Stable Diffusion XL in one file."""
    second = _open_clip(weights_of(base / "text_encoder_2"))
    whole = _ldm(base, layers_per_block) | _clip(base, "conditioner.embedders.0")
    whole |= {f"conditioner.embedders.1.model.{name}": one for name, one in second.items()}
    return _written(whole, target)


def flux_checkpoint(base: Path, target: Path) -> Path:
    """The transformer of a FLUX.1 in one file."""
    return _written(flux_original(weights_of(base / "transformer")), target)


def wan_checkpoint(base: Path, target: Path) -> Path:
    """The transformer of a WAN in one file."""
    weights = weights_of(base / "transformer")
    return _written({wan_name(name): weight for name, weight in weights.items()}, target)


def flux_original(weights: Weights) -> Weights:
    """The weights of a FLUX.1 transformer, its projections fused as they were published."""
    weights = dict(weights)
    whole: Weights = {}
    for fused, parts in _flux_fused(weights).items():
        whole[fused] = torch.cat([weights.pop(part) for part in parts])
    for name in ("norm_out.linear.weight", "norm_out.linear.bias"):
        scale, shift = weights.pop(name).chunk(2)
        ending = name.rsplit(".", 1)[1]
        whole[f"final_layer.adaLN_modulation.1.{ending}"] = torch.cat([shift, scale])
    return whole | {_renamed(name, _FLUX): weight for name, weight in weights.items()}


def wan_name(name: str) -> str:
    """The name of a weight in WAN's own code."""
    return _renamed(name, _WAN)


def weights_of(folder: Path) -> Weights:
    """All weights of a component."""
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def ldm_unet_name(name: str, layers_per_block: int) -> str:
    """The name of a UNet's weight in the original layout."""
    for ours, theirs in _LDM_OUTER.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    match = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)", name)
    assert match is not None, name
    way, block, kind, index, inner = match.groups()
    number = int(block or 0) * (layers_per_block + 1) + int(index)
    if kind == "resnets":
        layer, ending = inner.rsplit(".", 1)
        inner = f"{_LDM_RESNET[layer]}.{ending}"
    if way == "mid":
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
    elif kind == "downsamplers":
        place = f"input_blocks.{(int(block) + 1) * (layers_per_block + 1)}.0"
        inner = inner.replace("conv.", "op.")
    elif kind == "upsamplers":
        place = f"output_blocks.{number + layers_per_block}.{2}"
    else:
        way = "input_blocks" if way == "down" else "output_blocks"
        number += 1 if way == "input_blocks" else 0
        place = f"{way}.{number}.{1 if kind == 'attentions' else 0}"
    return f"{place}.{inner}"


def _ldm(base: Path, layers_per_block: int) -> Weights:
    """UNet and VAE of a Stable Diffusion."""
    whole = {
        f"model.diffusion_model.{ldm_unet_name(name, layers_per_block)}": weight
        for name, weight in weights_of(base / "unet").items()
    }
    return whole | _ldm_vae(weights_of(base / "vae"))


def _clip(base: Path, place: str) -> Weights:
    """The text encoder, as transformers names its weights."""
    return {
        f"{place}.transformer.text_model.{name.removeprefix('text_model.')}": weight
        for name, weight in weights_of(base / "text_encoder").items()
    }


def _open_clip(text: Weights) -> Weights:
    """A text encoder as OpenCLIP names its weights, its projections fused."""
    text = dict(text)
    whole = {"text_projection": text.pop("text_projection.weight").T}
    for query in [name for name in text if ".q_proj." in name]:
        fused = [text.pop(query.replace(".q_proj.", f".{one}_proj.")) for one in "qkv"]
        attention, ending = query.split(".q_proj.")
        whole[_renamed(f"{attention}.in_proj_{ending}", _OPEN_CLIP)] = torch.cat(fused)
    return whole | {_renamed(name, _OPEN_CLIP): weight for name, weight in text.items()}


def _ldm_vae(vae: Weights) -> Weights:
    blocks = 1 + max(int(name.split(".")[2]) for name in vae if "encoder.down_blocks" in name)
    rules: dict[str, str | Callable[[re.Match[str]], str]] = {
        r"down_blocks\.(\d+)\.resnets": r"down.\1.block",
        r"down_blocks\.(\d+)\.downsamplers\.0": r"down.\1.downsample",
        r"up_blocks\.(\d+)\.resnets": lambda found: f"up.{blocks - 1 - int(found[1])}.block",
        r"up_blocks\.(\d+)\.upsamplers\.0": lambda found: (
            f"up.{blocks - 1 - int(found[1])}.upsample"
        ),
        r"mid_block\.resnets\.(\d)": lambda found: f"mid.block_{int(found[1]) + 1}",
        r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
        r"mid_block\.attentions\.0\.to_(q|k|v)": r"mid.attn_1.\1",
        r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
        r"conv_norm_out": "norm_out",
        r"conv_shortcut": "nin_shortcut",
    }
    whole = {}
    for name, weight in vae.items():
        theirs = _renamed(name, rules)
        projection = ".attn_1." in theirs and weight.dim() == 2
        whole[f"first_stage_model.{theirs}"] = weight[:, :, None, None] if projection else weight
    return whole


_OPEN_CLIP: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"^text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"^text_model\.embeddings\.token_embedding": "token_embedding",
    r"^text_model\.final_layer_norm": "ln_final",
    r"^text_model\.encoder\.layers": "transformer.resblocks",
    r"layer_norm(\d)": r"ln_\1",
    r"self_attn\.": "attn.",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
}
_WAN: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"attn1\.": "self_attn.",
    r"attn2\.": "cross_attn.",
    r"attn\.to_(q|k|v)": r"attn.\1",
    r"attn\.to_out\.0": "attn.o",
    r"ffn\.net\.0\.proj": "ffn.0",
    r"ffn\.net\.2": "ffn.2",
    r"blocks\.(\d+)\.norm2": r"blocks.\1.norm3",
    r"blocks\.(\d+)\.scale_shift_table": r"blocks.\1.modulation",
    r"^scale_shift_table": "head.modulation",
    r"^proj_out": "head.head",
    r"condition_embedder\.time_embedder\.linear_1": "time_embedding.0",
    r"condition_embedder\.time_embedder\.linear_2": "time_embedding.2",
    r"condition_embedder\.text_embedder\.linear_1": "text_embedding.0",
    r"condition_embedder\.text_embedder\.linear_2": "text_embedding.2",
    r"condition_embedder\.time_proj": "time_projection.1",
}
_FLUX: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"time_text_embed\.timestep_embedder\.linear_1": "time_in.in_layer",
    r"time_text_embed\.timestep_embedder\.linear_2": "time_in.out_layer",
    r"time_text_embed\.text_embedder\.linear_1": "vector_in.in_layer",
    r"time_text_embed\.text_embedder\.linear_2": "vector_in.out_layer",
    r"time_text_embed\.guidance_embedder\.linear_1": "guidance_in.in_layer",
    r"time_text_embed\.guidance_embedder\.linear_2": "guidance_in.out_layer",
    r"^x_embedder": "img_in",
    r"^context_embedder": "txt_in",
    r"^proj_out": "final_layer.linear",
    r"single_transformer_blocks\.(\d+)\.norm\.linear": r"single_blocks.\1.modulation.lin",
    r"single_transformer_blocks\.(\d+)\.proj_out": r"single_blocks.\1.linear2",
    r"single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight": (
        r"single_blocks.\1.norm.query_norm.scale"
    ),
    r"single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight": (
        r"single_blocks.\1.norm.key_norm.scale"
    ),
    r"transformer_blocks": "double_blocks",
    r"norm1\.linear": "img_mod.lin",
    r"norm1_context\.linear": "txt_mod.lin",
    r"attn\.norm_q\.weight": "img_attn.norm.query_norm.scale",
    r"attn\.norm_k\.weight": "img_attn.norm.key_norm.scale",
    r"attn\.norm_added_q\.weight": "txt_attn.norm.query_norm.scale",
    r"attn\.norm_added_k\.weight": "txt_attn.norm.key_norm.scale",
    r"attn\.to_out\.0": "img_attn.proj",
    r"attn\.to_add_out": "txt_attn.proj",
    r"ff\.net\.0\.proj": "img_mlp.0",
    r"ff\.net\.2": "img_mlp.2",
    r"ff_context\.net\.0\.proj": "txt_mlp.0",
    r"ff_context\.net\.2": "txt_mlp.2",
}


def _flux_fused(weights: Weights) -> dict[str, list[str]]:
    """Name of each fused weight to those that it is made of."""
    fused: dict[str, list[str]] = {}
    for name in weights:
        match = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.attn\.to_q\.(\w+)", name)
        if match is None:
            continue
        single, block, ending = match.groups()
        before = f"{single or ''}transformer_blocks.{block}."
        attention = [f"{before}attn.{one}.{ending}" for one in ("to_q", "to_k", "to_v")]
        if single:
            parts = [*attention, f"{before}proj_mlp.{ending}"]
            fused[f"single_blocks.{block}.linear1.{ending}"] = parts
            continue
        fused[f"double_blocks.{block}.img_attn.qkv.{ending}"] = attention
        fused[f"double_blocks.{block}.txt_attn.qkv.{ending}"] = [
            f"{before}attn.add_{one}_proj.{ending}" for one in "qkv"
        ]
    return fused


def _renamed(name: str, rules: Mapping[str, str | Callable[[re.Match[str]], str]]) -> str:
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def _written(weights: Weights, target: Path) -> Path:
    save_file({name: weight.contiguous() for name, weight in weights.items()}, target)
    return target
