"""Model families behind one protocol: adding a family means adding a file here.

A package of its own so that the loop, the cache and the sampler know no family. This module
imports no torch; a recipe's file does, and is imported when its first model is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from lora_trainer.basemodel import BaseModel

# Text conditioning by name, e.g. {"hidden_states": [tokens, width]}; a family with pooled
# embeddings adds its own names, and nothing between encoder and loss has to know them.
Conditioning = dict[str, "torch.Tensor"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeDefaults:
    """What is known of a family without loading anything of it."""

    module: str
    """Module with a function `check` and a class `RECIPE` that implements `Recipe`."""

    resolution: int
    """Side of the training square in pixels, where the job names none."""

    rank: int
    """Rank, where the job names none."""

    steps: int
    """Optimiser steps, where the job names neither steps nor epochs."""

    learning_rate: float
    """Highest learning rate, where the job names none."""

    target_modules: tuple[str, ...]
    """Layers that get an adapter, where the job names none."""

    guidance_scale: float
    """Guidance of the samples, where the job names none."""

    min_side_pixels: int
    """Shortest side of a picture that makes sense for the family."""

    bucket_step: int
    """Width and height of a training picture are multiples of this, in pixels."""

    components: tuple[str, ...]
    """Folders of the base model that are needed, in diffusers layout."""

    weightless: frozenset[str]
    """Those of them that hold no weights (tokenizers, schedulers)."""

    base_version: str
    """ss_base_model_version of the saved file."""

    architecture: str
    """modelspec.architecture of the saved file."""


RECIPES: Mapping[str, RecipeDefaults] = {
    "sd15": RecipeDefaults(
        module="lora_trainer.recipes.sd15",
        resolution=512,
        rank=16,
        steps=1000,
        learning_rate=1.0e-4,
        target_modules=("to_q", "to_k", "to_v", "to_out.0"),
        guidance_scale=7.5,
        min_side_pixels=512,
        bucket_step=64,
        components=("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
        weightless=frozenset({"tokenizer", "scheduler"}),
        base_version="sd_v1",
        architecture="stable-diffusion-v1/lora",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one loss is computed from; all samples of it have the same shape."""

    moments: "torch.Tensor"
    """[batch, 2 * channels, h, w], or [batch, 2 * channels, frames, h, w] for video: means and log
    variances from the picture encoder, in float32 on the denoiser's device."""

    text: Conditioning
    """Conditioning, stacked along a batch axis, on the denoiser's device."""

    geometry: "torch.Tensor"
    """[batch, 6] int64 on the CPU, in pixels: height and width of the picture when it was scaled
    (before the crop), top and left of the crop, height and width of the crop."""

    levels: "torch.Tensor"
    """[batch] in 0..1 on the CPU; how noisy each sample is made, evenly distributed before a
    recipe shifts them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """What a job may change about the loss; a recipe refuses what has no meaning for it."""

    min_snr_gamma: float | None = None
    """Weight of the noise levels; None weighs all the same."""

    noise_offset: float = 0.0
    """Strength of noise that is constant over a picture."""

    timestep_shift: float | None = None
    """Shift of flow matching's noise levels; None takes the recipe's."""


class PictureEncoder(Protocol):
    """Turns pixels into what the denoiser sees."""

    def encode(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Moments of the latents' distribution, so that each step can draw anew.

        Args:
            pixels: [batch, 3, height, width] in -1..1, or [batch, 3, frames, height, width].

        Returns:
            [batch, 2 * channels, height / f, width / f], for video with an axis of latent frames
            before the height: means, then log variances.
        """


class TextEncoder(Protocol):
    """Turns captions and prompts into conditioning."""

    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        """Conditioning of each text, without a batch axis."""

    def truncated(self, text: str) -> str | None:
        """The end of a text that the encoder can't see; None where it sees all."""


class Sampler(Protocol):
    """Draws pictures with the denoiser as it is, adapters included."""

    def draw(
        self,
        *,
        prompt: Conditioning,
        empty: Conditioning,
        seeds: Sequence[int],
        resolution: int,
        steps: int,
        guidance_scale: float,
    ) -> "list[Image]":
        """One picture per seed."""


class Recipe(Protocol):
    """How one model family is loaded, encoded, trained, sampled and saved.

    Args:
        base: The base model, its configs checked.
    """

    def __init__(self, base: "BaseModel") -> None: ...

    def skeleton(self) -> "torch.nn.Module":
        """The denoiser without weights (on the meta device), to look at its layers' names."""

    def load_denoiser(self, *, device: "torch.device", dtype: "torch.dtype") -> "torch.nn.Module":
        """The denoiser, frozen."""

    def load_picture_encoder(self, *, device: "torch.device") -> PictureEncoder:
        """The part that encodes pictures, frozen."""

    def load_text_encoder(self, *, device: "torch.device") -> TextEncoder:
        """The part that encodes text, frozen."""

    def losses(
        self,
        denoiser: "torch.nn.Module",
        batch: Batch,
        *,
        settings: LossSettings,
        generator: "torch.Generator",
    ) -> "torch.Tensor":
        """Denoising loss of each sample.

        Args:
            denoiser: The model, adapters included.
            batch: Latents, text and noise levels.
            settings: What the job changes about the loss.
            generator: On the CPU; the only source of randomness, so that a step can be repeated.

        Returns:
            [batch], float32.
        """

    def sampler(self, denoiser: "torch.nn.Module", *, device: "torch.device") -> Sampler:
        """Draws with the given denoiser."""

    def to_file(
        self, weights: Mapping[str, "torch.Tensor"], *, alpha: float
    ) -> "dict[str, torch.Tensor]":
        """The LoRA under the key names that the family's tools read.

        Args:
            weights: ``<module path>.lora_A.weight`` and ``.lora_B.weight``, as peft names them.
            alpha: The LoRA's scale.
        """

    def attach_file(self, denoiser: "torch.nn.Module", path: Path, *, name: str) -> None:
        """Load a saved file through diffusers' own loader, the way its users will.

        Args:
            denoiser: Gets the file's weights as a further adapter.
            path: The saved file.
            name: Name of that adapter.
        """


def check_base(name: str, base: "BaseModel") -> None:
    """Look at a base model's configs alone; imports torch.

    Raises:
        TrainerError: BaseModelInvalid; the model is of another family or does not fit.
    """
    import_module(RECIPES[name].module).check(base)


def load_recipe(name: str, base: "BaseModel") -> Recipe:
    """The recipe of that name for a base model; imports torch."""
    module: Any = import_module(RECIPES[name].module)
    return cast(Recipe, module.RECIPE(base))
