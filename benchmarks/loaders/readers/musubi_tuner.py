"""musubi-tuner's own code reads LoRA files of WAN; run by its Python, inside its checkout.

    python musubi_tuner.py FAMILY SCALE FILE...

A program of its own because its libraries are not ours: it prints a line of JSON for each file, and
imports nothing of this repository. The path is that of its training script's `--network_weights`:
names with the prefix `diffusion_model` are converted, then `create_arch_network_from_weights` on a
model in its published size (on the meta device), `apply_to`, and each layer's change of its
model's weight.
"""

import json
import sys
from importlib import import_module
from typing import Any

import torch
from safetensors.torch import load_file

# Strength is compared in each eighth layer: WAN's matrices are large.
_EACH = 8
SIZES = {
    "wan 1.3B": {"dim": 1536, "num_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan 14B": {"dim": 5120, "num_heads": 40, "ffn_dim": 13824, "num_layers": 40},
}


def main(family: str, scale: float, paths: list[str]) -> None:
    """Load the files, and print what became of each key."""
    # A default argument in its text encoder's file asks for a GPU when the file is imported.
    torch.cuda.current_device = lambda: 0
    for path in paths:
        print(json.dumps(_read(family, path, scale)))


def _read(family: str, path: str, scale: float) -> dict[str, Any]:
    converted = import_module("musubi_tuner.convert_lora").convert_from_diffusers(
        "lora_unet_", load_file(path)
    )
    with torch.device("meta"):
        model = import_module("musubi_tuner.wan.modules.model").WanModel(
            text_len=512, in_dim=16, out_dim=16, text_dim=4096, **SIZES[family]
        )
    network = import_module("musubi_tuner.networks.lora_wan").create_arch_network_from_weights(
        1.0, converted, unet=model, for_inference=True
    )
    network.apply_to(None, model, apply_text_encoder=False)
    found = network.load_state_dict(converted, strict=False)
    worst = 0.0
    for layer in network.unet_loras[::_EACH]:
        up, down = (converted[f"{layer.lora_name}.lora_{side}.weight"] for side in ("up", "down"))
        worst = max(worst, float((layer.get_weight(1.0) - scale * (up @ down)).abs().max()))
    return {
        "layers": len(network.unet_loras),
        "left_over": sorted(found.unexpected_keys),
        "missing": sorted(found.missing_keys),
        "largest_error": worst,
    }


if __name__ == "__main__":
    sys.path.insert(0, "src")
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
