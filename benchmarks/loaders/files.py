"""LoRA files of each family in its published size, as the trainer writes them.

A module of its own because the peers' loaders know the published sizes alone: a LoRA of one of
the tests' miniatures could not be given to them. Names, endings and alphas come from the recipes
themselves; the numbers in the matrices are random, since what is looked at is where they arrive.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel, WanTransformer3DModel
from safetensors.torch import save_file
from tests.trainer.families import MAKERS, opened, recipe_of
from tests.trainer.published import SDXL_UNET
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_trainer.convert import to_sd_scripts
from lora_trainer.errors import TrainerError
from lora_trainer.lora import find_layers
from lora_trainer.recipes import RECIPES, Recipe, load_recipe

RANK = 4
# Not the rank: a loader that overlooks it adds twice too much.
ALPHA = 2.0
USUAL = "usual layers"
EVERY = "every layer"
CONVERTED = "usual layers, by `lora-trainer convert`"

Sizes = Mapping[str, Any]

# From the published configs.
_CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_CLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}


def _clip(kind: Callable[[CLIPTextConfig], Any], sizes: Sizes) -> Callable[[], Any]:
    return lambda: kind(CLIPTextConfig(vocab_size=49408, **sizes))


DENOISERS: dict[str, Callable[[], Any]] = {
    "sd15": lambda: UNet2DConditionModel(cross_attention_dim=768),
    "sdxl": lambda: UNet2DConditionModel(**SDXL_UNET),
    "flux": lambda: FluxTransformer2DModel(guidance_embeds=True),
    "wan 1.3B": lambda: WanTransformer3DModel(num_attention_heads=12, num_layers=30, ffn_dim=8960),
    "wan 14B": lambda: WanTransformer3DModel(num_attention_heads=40, num_layers=40, ffn_dim=13824),
}
TEXT_ENCODERS: dict[str, dict[str, Callable[[], Any]]] = {
    "sd15": {"text_encoder": _clip(CLIPTextModel, _CLIP_L)},
    "sdxl": {
        "text_encoder": _clip(CLIPTextModel, _CLIP_L),
        "text_encoder_2": _clip(CLIPTextModelWithProjection, _CLIP_G),
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraFile:
    """One file, and what it should do."""

    family: str
    """Family, with the size where there are several."""

    layers: str
    """`USUAL`, `EVERY` or `CONVERTED`."""

    path: Path
    """Where it is."""

    keys: int
    """Tensors in it."""

    @property
    def scale(self) -> float:
        """What the product of a layer's matrices is to be multiplied by."""
        return ALPHA / RANK


def write_files(folder: Path, family: str) -> list[LoraFile]:
    """A file with the layers that a job adapts by default, and one with all that can be.

    Args:
        folder: Where to; must exist.
        family: One of `DENOISERS`.
    """
    name = recipe_of(family)
    with torch.device("meta"):
        denoiser = DENOISERS[family]()
        encoders = {part: make() for part, make in TEXT_ENCODERS.get(name, {}).items()}
    recipe = _recipe(folder / f"{name}-miniature", name)
    text = {
        part: _weights(model, find_layers(model, RECIPES[name].text_encoder_modules))
        for part, model in encoders.items()
    }
    files = []
    for title, layers in (
        (USUAL, find_layers(denoiser, RECIPES[name].target_modules)),
        (EVERY, [layer for layer in _adaptable(denoiser) if _has_name(recipe, layer)]),
    ):
        tensors = recipe.to_file(_weights(denoiser, layers), alpha=ALPHA, text_weights=text)
        files.append(_written(folder, family, title, tensors))
        if name == "flux" and title == USUAL:
            files.append(_written(folder, family, CONVERTED, to_sd_scripts(tensors)))
    return files


def _written(folder: Path, family: str, title: str, tensors: dict[str, torch.Tensor]) -> LoraFile:
    path = folder / f"{family}-{title[:5]}-{len(tensors)}.safetensors".replace(" ", "-")
    save_file(tensors, path)
    return LoraFile(family=family, layers=title, path=path, keys=len(tensors))


def _recipe(folder: Path, name: str) -> Recipe:
    """The recipe, which asks a base model for its configs; the miniature's, but for its depth."""
    base = opened(name, folder if folder.exists() else MAKERS[name](folder))
    base.configs.get("unet", {})["layers_per_block"] = 2
    return load_recipe(name, base)


def _adaptable(model: torch.nn.Module) -> list[str]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def _has_name(recipe: Recipe, layer: str) -> bool:
    blank = torch.empty(1, device="meta")
    try:
        recipe.to_file({f"{layer}.lora_{side}.weight": blank for side in "AB"}, alpha=ALPHA)
    except TrainerError:
        return False
    return True


def _weights(model: torch.nn.Module, layers: list[str]) -> dict[str, torch.Tensor]:
    """Random matrices of a LoRA, in the shapes that peft gives them."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for layer in layers:
        module = model.get_submodule(layer)
        down, up = _shapes(module)
        weights[f"{layer}.lora_A.weight"] = torch.randn(down, generator=generator) * 0.1
        weights[f"{layer}.lora_B.weight"] = torch.randn(up, generator=generator) * 0.1
    return weights


def _shapes(module: torch.nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(module, torch.nn.Conv2d):
        kernel = (int(module.kernel_size[0]), int(module.kernel_size[1]))
        return (RANK, module.in_channels, *kernel), (module.out_channels, RANK, 1, 1)
    assert isinstance(module, torch.nn.Linear)  # noqa: S101
    return (RANK, module.in_features), (module.out_features, RANK)
