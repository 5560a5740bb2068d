"""What is known of each model family without loading anything of it.

A module of its own, and here, because both sides decide by it: the trainer fills in defaults and
refuses settings, the operator places a run by the memory that it will need.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from lora_api.settings import (
    BaseModelSettings,
    DatasetSettings,
    NetworkSettings,
    OptimizationSettings,
)


class FileFormat(StrEnum):
    """Whose key names a family's LoRA file has."""

    KOHYA = "kohya"
    DIFFUSERS = "diffusers"
    COMFYUI = "comfyui"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeDefaults:
    """The facts of one family."""

    module: str
    """Module with a function `check` and a class `RECIPE`, the trainer's `Recipe`."""

    pipeline: str
    """Class of the family's pipeline, which a base model's model_index.json names."""

    resolution: int
    """Side of the training square in pixels, where the job names none."""

    rank: int = 16
    """Rank, where the job names none."""

    steps: int = 1000
    """Optimiser steps, where the job names neither steps nor epochs."""

    learning_rate: float = 1.0e-4
    """Highest learning rate, where the job names none."""

    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get an adapter, where the job names none: the attention's, as diffusers names
    them."""

    text_encoder_modules: tuple[str, ...] = ()
    """Layers of the text encoders that get one with network.textEncoder; empty: can't be had."""

    guidance_scale: float
    """Guidance of the samples, where the job names none."""

    min_side_pixels: int = 512
    """Shortest side of a picture that makes sense for the family."""

    bucket_step: int = 64
    """Width and height of a training picture are multiples of this, in pixels."""

    frames: int = 1
    """Frames of a training clip, where the job names none; 1: the family knows pictures alone."""

    components: tuple[str, ...]
    """Folders of the base model that are needed, in diffusers layout."""

    optional: frozenset[str] = frozenset()
    """Folders that some models of the family have, and that are needed where they are there."""

    weightless: frozenset[str]
    """Those of them that hold no weights (tokenizers, schedulers)."""

    single_file: frozenset[str]
    """Those whose weights a single-file checkpoint in the family's original layout holds."""

    file_format: FileFormat
    """Key names of the saved file."""

    base_version: str
    """ss_base_model_version of the saved file."""

    architecture: str
    """modelspec.architecture of the saved file."""

    network_module: str
    """ss_network_module of the saved file: the script that would read it."""

    refused: Mapping[str, str] = field(default_factory=dict)
    """Path of a setting that has no meaning for the family, to why."""


# Formats whose loading can run code.
PICKLED_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")

_CLIP_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_ONE_TEXT = ("text_encoder", "tokenizer", "scheduler")
_TWO_TEXTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_WEIGHTLESS = frozenset({"tokenizer", "scheduler"})
_TWICE_WEIGHTLESS = _WEIGHTLESS | {"tokenizer_2"}
REFUSED_BY_NOISE: Mapping[str, str] = {
    "optimization.timestepShift": "it moves the levels of flow matching, which this family has not",
}
"""What has no meaning for a family that predicts noise or velocity."""
REFUSED_BY_FLOW: Mapping[str, str] = {
    "optimization.minSnrGamma": (
        "it weighs the levels of noise-predicting families; flow matching is not weighed"
    ),
    "optimization.noiseOffset": (
        "it mends a fault of noise-predicting families that flow matching has not"
    ),
    "network.textEncoder": "its text encoder is too large to be adapted, and is left as it is",
}
"""What has no meaning for a family of flow matching with a T5."""

RECIPES: Mapping[str, RecipeDefaults] = {
    "sd15": RecipeDefaults(
        module="lora_trainer.recipes.sd15",
        pipeline="StableDiffusionPipeline",
        resolution=512,
        text_encoder_modules=_CLIP_LAYERS,
        guidance_scale=7.5,
        components=("unet", "vae", *_ONE_TEXT),
        weightless=_WEIGHTLESS,
        single_file=frozenset({"unet", "vae", "text_encoder"}),
        file_format=FileFormat.KOHYA,
        base_version="sd_v1",
        architecture="stable-diffusion-v1/lora",
        network_module="networks.lora",
        refused=REFUSED_BY_NOISE,
    ),
    "sdxl": RecipeDefaults(
        module="lora_trainer.recipes.sdxl",
        pipeline="StableDiffusionXLPipeline",
        resolution=1024,
        text_encoder_modules=_CLIP_LAYERS,
        guidance_scale=7.0,
        components=("unet", "vae", *_TWO_TEXTS),
        weightless=_TWICE_WEIGHTLESS,
        single_file=frozenset({"unet", "vae", "text_encoder", "text_encoder_2"}),
        file_format=FileFormat.KOHYA,
        base_version="sdxl_base_v1-0",
        architecture="stable-diffusion-xl-v1-base/lora",
        network_module="networks.lora",
        refused=REFUSED_BY_NOISE,
    ),
    "flux": RecipeDefaults(
        module="lora_trainer.recipes.flux",
        pipeline="FluxPipeline",
        resolution=1024,
        guidance_scale=3.5,
        components=("transformer", "vae", *_TWO_TEXTS),
        weightless=_TWICE_WEIGHTLESS,
        single_file=frozenset({"transformer"}),
        file_format=FileFormat.DIFFUSERS,
        base_version="flux1",
        architecture="flux-1-dev/lora",
        network_module="networks.lora_flux",
        refused=REFUSED_BY_FLOW,
    ),
    "wan": RecipeDefaults(
        module="lora_trainer.recipes.wan",
        pipeline="WanPipeline",
        resolution=480,
        guidance_scale=5.0,
        min_side_pixels=480,
        bucket_step=32,
        frames=17,
        components=("transformer", "vae", *_ONE_TEXT),
        optional=frozenset({"transformer_2"}),
        weightless=_WEIGHTLESS,
        single_file=frozenset({"transformer"}),
        file_format=FileFormat.COMFYUI,
        base_version="wan",
        architecture="wan/lora",
        network_module="networks.lora_wan",  # musubi-tuner's; the others are sd-scripts'
        refused=REFUSED_BY_FLOW,
    ),
}


def setting_faults(
    recipe: str,
    *,
    base_model: BaseModelSettings,
    dataset: DatasetSettings,
    network: NetworkSettings,
    optimization: OptimizationSettings,
) -> list[str]:
    """Every setting that the family can't honour, each with its path, why, and what to do.

    Args:
        recipe: A key of `RECIPES`.
        base_model: As in the job or the resource.
        dataset: Likewise.
        network: Likewise.
        optimization: Likewise.
    """
    facts = RECIPES[recipe]
    given = {
        "optimization.timestepShift": optimization.timestep_shift is not None,
        "optimization.minSnrGamma": optimization.min_snr_gamma is not None,
        "optimization.noiseOffset": optimization.noise_offset != 0.0,
        "network.textEncoder": network.text_encoder,
    }
    faults = [
        f"{path}: has no meaning for {recipe} ({why}); remove it"
        for path, why in facts.refused.items()
        if given[path]
    ]
    faults += _base_model_faults(base_model)
    frames = dataset.frames
    if frames is not None and facts.frames == 1 and frames != 1:
        faults.append(f"dataset.frames: {recipe} trains on pictures, not clips; remove it")
    elif frames is not None and frames % 4 != 1:
        faults.append(
            f"dataset.frames: {frames} is not 4 n + 1, which the video VAE needs; use "
            f"{frames - (frames - 1) % 4} or {frames + (1 - frames) % 4}"
        )
    return faults


def _base_model_faults(base_model: BaseModelSettings) -> list[str]:
    faults = []
    if base_model.uri.lower().endswith(PICKLED_SUFFIXES):
        faults.append(
            "baseModel.uri: is a pickled file, which can run code when it is loaded; convert it to "
            "safetensors, and name that"
        )
    elif base_model.is_single_file and base_model.components_uri is None:
        faults.append(
            "baseModel.componentsUri: a single-file checkpoint lacks configs and tokenizers; name "
            "a folder of the same family in diffusers layout"
        )
    elif base_model.components_uri is not None and not base_model.is_single_file:
        faults.append(
            "baseModel.componentsUri: baseModel.uri is a folder, which has all of it; remove it, "
            "or name a .safetensors file"
        )
    return faults
