"""sd-scripts' own code reads LoRA files; run by its Python, inside its checkout.

    python sd_scripts.py FAMILY SCALE FILE...

A program of its own because its libraries are not ours: it prints a line of JSON for each file, and
imports nothing of this repository. The path is that of its generation scripts:
`create_network_from_weights` on models in their published sizes (on the meta device), `apply_to`,
the weights loaded, and each layer's change of its model's weight.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

# Strength is compared in each eighth layer: FLUX's matrices are large.
_EACH = 8
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
CLIP_L |= {"num_attention_heads": 12, "projection_dim": 768}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
CLIP_G |= {"num_attention_heads": 20, "projection_dim": 1280}


def _clip(kind: Callable[..., Any], sizes: dict[str, int]) -> torch.nn.Module:
    made: torch.nn.Module = kind(CLIPTextConfig(vocab_size=49408, **sizes))
    return made


def _models(family: str) -> tuple[Any, Any, Any]:
    """Its network module, and text encoder and denoiser of the published sizes."""
    with torch.device("meta"):
        clip_l = _clip(CLIPTextModel, CLIP_L)
        if family == "sd15":
            unet = import_module("library.original_unet").UNet2DConditionModel(
                sample_size=64,
                attention_head_dim=8,
                cross_attention_dim=768,
                use_linear_projection=False,
                upcast_attention=False,
            )
            return import_module("networks.lora"), clip_l, unet
        if family == "sdxl":
            unet = import_module("library.sdxl_original_unet").SdxlUNet2DConditionModel()
            clip_g = _clip(CLIPTextModelWithProjection, CLIP_G)
            return import_module("networks.lora"), [clip_l, clip_g], unet
        flux = import_module("library.flux_models")
        unet = flux.Flux(flux.configs["dev"].params)
        return import_module("networks.lora_flux"), [clip_l, None], unet


def main(family: str, scale: float, paths: list[str]) -> None:
    """Load the files, and print what became of each key."""
    for path in paths:
        print(json.dumps(_read(family, path, scale)))


def _read(family: str, path: str, scale: float) -> dict[str, Any]:
    weights = load_file(path)
    module, text, unet = _models(family)
    # It changes names in place where it takes a file for one of diffusers.
    network, _ = module.create_network_from_weights(
        1.0, None, None, text, unet, weights_sd=dict(weights), for_inference=True
    )
    network.apply_to(text, unet)
    found = network.load_state_dict(dict(weights), strict=False)
    layers = network.text_encoder_loras + network.unet_loras
    worst = 0.0
    for layer in layers[::_EACH]:
        up, down = (weights[f"{layer.lora_name}.lora_{side}.weight"] for side in ("up", "down"))
        change = layer.get_weight(1.0)
        wanted = scale * (up.flatten(1) @ down.flatten(1)).reshape(change.shape)
        worst = max(worst, float((change - wanted).abs().max()))
    return {
        "layers": len(layers),
        "left_over": sorted(found.unexpected_keys),
        "missing": sorted(found.missing_keys),
        "largest_error": worst,
    }


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
