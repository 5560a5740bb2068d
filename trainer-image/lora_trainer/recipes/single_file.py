"""What a single-file checkpoint in an original layout is, seen from its header.

A module of its own because the names that tell one family from another are diffusers' knowledge,
and because a wrong file must be refused before its weights are loaded.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from safetensors import safe_open

from lora_trainer.basemodel import BaseModel

# Diffusers' word for "none of those I know".
_UNKNOWN = "v1"
_SD_KEY = "model.diffusion_model.input_blocks.0.0.weight"
# ComfyUI and others put this before the names of a transformer.
_PREFIX = "model.diffusion_model."
_WORDS = {
    "v1": "Stable Diffusion 1.x",
    "v2": "Stable Diffusion 2.x",
    "inpainting": "an inpainting model",
    "inpainting_v2": "an inpainting model",
    "xl_inpaint": "an inpainting model",
    "xl_base": "Stable Diffusion XL",
    "xl_refiner": "the refiner of Stable Diffusion XL",
    "flux-dev": "FLUX.1-dev",
    "flux-schnell": "FLUX.1-schnell",
    "flux-fill": "FLUX.1-fill",
    "flux-depth": "FLUX.1-depth or -canny",
    "wan-t2v-1.3B": "WAN text-to-video 1.3B",
    "wan-t2v-14B": "WAN text-to-video 14B",
    "wan-i2v-14B": "WAN image-to-video or 2.2 5B",
}


def single_file_faults(
    base: BaseModel,
    *,
    kinds: frozenset[str],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[str]:
    """What is wrong with the base model's single file; nothing where it has none.

    Args:
        base: The base model.
        kinds: What the family may be, in diffusers' words.
        shapes: What the configs say of some weights, by their original name.
    """
    if base.single_file is None:
        return []
    weights = _weights_of(base.single_file)
    name = base.single_file.name
    kind = infer_diffusers_model_type(weights)
    if kind == _UNKNOWN and _SD_KEY not in weights:
        return [f"{name} is in no layout that is known here ({', '.join(sorted(weights)[:3])}, …)"]
    if kind not in kinds:
        return [f"{name} is {_WORDS.get(kind, kind)}"]
    faults = []
    for key, expected in (shapes or {}).items():
        weight = weights.get(key, weights.get(f"{_PREFIX}{key}"))
        found = None if weight is None else tuple(weight.shape[: len(expected)])
        if found != expected:
            faults.append(
                f"{key} in {name} is {_shape(found)}, baseModel.componentsUri's config says "
                f"{_shape(expected)}: they are models of different sizes"
            )
    return faults


def _weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Names and shapes, on the meta device."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        shapes = {name: file.get_slice(name).get_shape() for name in names}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape))
