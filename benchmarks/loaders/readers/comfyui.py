"""ComfyUI's own code reads LoRA files; run by its Python, inside its checkout.

    python comfyui.py FAMILY SCALE FILE...

A program of its own because ComfyUI's libraries are not ours: it prints a line of JSON for each
file, and imports nothing of this repository. The path is the one of its `LoraLoader` node:
`convert_lora`, the key maps of a model in its published size (on the meta device), `load_lora`,
`calculate_weight`.
"""

import json
import sys
from importlib import import_module
from typing import Any

import torch
from safetensors.torch import load_file

# Strength is compared in each eighth layer: FLUX's and WAN's matrices are large.
_EACH = 8

# Its published settings of each model, as its own detection finds them in the weights.
_UNET: dict[str, Any] = {
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
_WAN: dict[str, Any] = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "in_dim": 16,
    "out_dim": 16,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {
        **_UNET,
        "adm_in_channels": None,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "use_linear_in_transformer": False,
        "context_dim": 768,
        "num_heads": 8,
    },
    "sdxl": {
        **_UNET,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "use_linear_in_transformer": True,
        "context_dim": 2048,
        "num_head_channels": 64,
    },
    "flux": {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 768,
        "context_in_dim": 4096,
        "hidden_size": 3072,
        "mlp_ratio": 4.0,
        "num_heads": 24,
        "depth": 19,
        "depth_single_blocks": 38,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": True,
    },
    "wan 1.3B": {**_WAN, "dim": 1536, "num_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan 14B": {**_WAN, "dim": 5120, "num_heads": 40, "ffn_dim": 13824, "num_layers": 40},
}


def _key_map(family: str) -> tuple[dict[str, Any], dict[str, torch.Size]]:
    """Names in a file to weights of the model, and the shapes of these."""
    loaders, detection = import_module("comfy.lora"), import_module("comfy.model_detection")
    config = detection.model_config_from_unet_config(
        {**CONFIGS[family], "dtype": torch.float32}, {}
    )
    with torch.device("meta"):
        model = config.get_model({}, device="meta")
        encoders: list[Any] = []
        if family == "sd15":
            encoders = [import_module("comfy.sd1_clip").SD1ClipModel(device="meta")]
        elif family == "sdxl":
            encoders = [import_module("comfy.sdxl_clip").SDXLClipModel(device="meta")]
    names: dict[str, Any] = loaders.model_lora_keys_unet(model, {})
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    for encoder in encoders:
        names = loaders.model_lora_keys_clip(encoder, names)
        shapes |= {name: weight.shape for name, weight in encoder.state_dict().items()}
    return names, shapes


def main(family: str, scale: float, paths: list[str]) -> None:
    """Load the files, and print what became of each key."""
    import_module("comfy.cli_args").args.cpu = True  # it asks for a GPU at its first import
    names, shapes = _key_map(family)
    for path in paths:
        print(json.dumps(_read(path, names, shapes, scale)))


def _read(
    path: str, names: dict[str, Any], shapes: dict[str, torch.Size], scale: float
) -> dict[str, Any]:
    loaders = import_module("comfy.lora")
    lora = import_module("comfy.lora_convert").convert_lora(load_file(path))
    patches = loaders.load_lora(lora, names)
    read: set[str] = set()
    worst = 0.0
    for place, (target, patch) in enumerate(patches.items()):
        read |= set(patch.loaded_keys)
        if place % _EACH:
            continue
        # A part of a weight is named with its place: FLUX's q, k and v are one matrix there.
        weight, part = (target, None) if isinstance(target, str) else (target[0], target[1])
        size = list(shapes[weight])
        if part is not None:
            size[part[0]] = part[2]
        change = loaders.calculate_weight(
            [(1.0, patch, 1.0, None, None)], torch.zeros(size), str(weight)
        )
        up, down = patch.weights[0], patch.weights[1]
        wanted = scale * (up.flatten(1) @ down.flatten(1)).reshape(size)
        worst = max(worst, float((change - wanted).abs().max()))
    # It reads a layer's alpha beside its matrices.
    read |= {name for name in lora if name.endswith(".alpha") and _matrices(name, read)}
    left = sorted(set(lora) - read)
    return {"layers": len(patches), "left_over": left, "largest_error": worst}


def _matrices(alpha: str, read: set[str]) -> bool:
    layer = alpha.removesuffix(".alpha")
    return bool(read & {f"{layer}.lora_up.weight", f"{layer}.lora_B.weight"})


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
