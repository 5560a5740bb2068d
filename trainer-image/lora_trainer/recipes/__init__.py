"""Model families behind one protocol: adding a family means adding a file here.

A package of its own so that the loop, the cache and the sampler know no family. This module
imports no torch; a recipe's file does, and is imported when its first model is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from lora_api.recipes import RECIPES, RecipeDefaults

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from lora_trainer.basemodel import BaseModel

# Text conditioning by name, e.g. {"hidden_states": [tokens, width]}; a family with pooled
# embeddings adds its own names, and nothing between encoder and loss has to know them.
Conditioning = dict[str, "torch.Tensor"]

NO_TEXT_WEIGHTS: Mapping[str, Mapping[str, "torch.Tensor"]] = MappingProxyType({})
NO_TEXT_ENCODERS: Mapping[str, "torch.nn.Module"] = MappingProxyType({})


__all__ = ["RECIPES", "RecipeDefaults"]  # facts of the families, from the shared package


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One of a base model's denoisers, and the file of its LoRA."""

    name: str = ""
    """Short name for logs and file metadata; empty where the model has but one denoiser."""

    file: str = "model.safetensors"
    """Name of the saved file. The first part's is always model.safetensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one loss is computed from; all samples of it have the same shape."""

    moments: "torch.Tensor"
    """[batch, 2 * channels, h, w], or [batch, 2 * channels, frames, h, w] for video: means and log
    variances from the picture encoder, in float32 on the denoiser's device."""

    text: Conditioning
    """Conditioning, stacked along a batch axis, on the denoiser's device."""

    geometry: "torch.Tensor"
    """[batch, 6] int64 on the CPU, in pixels: the picture's own height and width (before it was
    scaled), top and left of the crop in the scaled picture, height and width of the crop."""

    levels: "torch.Tensor"
    """[batch] in 0..1 on the CPU; how noisy each sample is made, evenly distributed. The recipe
    shifts them, and maps them onto the levels that its part is trained on."""


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
        """Conditioning of each text, without a batch axis, on the encoder's device.

        It carries gradients where an adapter of `modules()` is trained; otherwise nothing in the
        encoder wants one.
        """

    def truncated(self, text: str) -> str | None:
        """The end of a text that the encoder can't see; None where it sees all."""

    def modules(self) -> "Mapping[str, torch.nn.Module]":
        """The models inside that can be trained, by their folder's name (text_encoder, ...).

        Empty for a family whose facts name no `text_encoder_modules`.
        """


class TextSource(Protocol):
    """Where a batch gets its conditioning from: the cache, or a text encoder in training."""

    def text(self, text: str) -> Conditioning:
        """Conditioning of one text, without a batch axis."""


class LiveTexts:
    """Conditioning computed when it is asked for, because the encoder is being trained.

    Args:
        encoder: The text encoder, adapters included.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

    def text(self, text: str) -> Conditioning:
        """Conditioning of one text, with gradients where they are wanted."""
        return self._encoder.encode([text])[0]


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
    """How one denoiser of a model family is loaded, trained, sampled and saved.

    A recipe stands for one denoiser, and the loop, the checkpoints and the saved file with it. A
    model of several experts (WAN 2.2) gives one recipe for each: they are trained one after the
    other, as runs of their own that share the caches, so that one is on the device at a time.

    Args:
        base: The base model, its configs checked.
    """

    part: Part
    """Which denoiser, and its file."""

    def __init__(self, base: "BaseModel") -> None: ...

    def experts(self) -> "tuple[Recipe, ...]":
        """One recipe for each denoiser, in the order in which they are trained; often itself."""

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

    def sampler(self, denoisers: "Sequence[torch.nn.Module]", *, device: "torch.device") -> Sampler:
        """Draws with the given denoisers, one for each of `experts()`, in that order.

        Where there are several, each is brought to the device when it is its turn.
        """

    def to_file(
        self,
        weights: Mapping[str, "torch.Tensor"],
        *,
        alpha: float,
        text_weights: Mapping[str, Mapping[str, "torch.Tensor"]] = NO_TEXT_WEIGHTS,
    ) -> "dict[str, torch.Tensor]":
        """The LoRA under the key names that the family's tools read.

        Args:
            weights: ``<module path>.lora_A.weight`` and ``.lora_B.weight``, as peft names them.
            alpha: The LoRA's scale.
            text_weights: The same of each model of `TextEncoder.modules()` that was trained.

        Raises:
            TrainerError: TargetModulesNotFound; the format has no name for a layer. Only names
                are looked at, so that this can be asked before training, of tensors on the meta
                device.
        """

    def attach_file(
        self,
        denoiser: "torch.nn.Module",
        path: Path,
        *,
        name: str,
        text_encoders: Mapping[str, "torch.nn.Module"] = NO_TEXT_ENCODERS,
    ) -> None:
        """Load a saved file through diffusers' own loader, the way its users will.

        Args:
            denoiser: Gets the file's weights as a further adapter.
            path: The saved file.
            name: Name of that adapter.
            text_encoders: `TextEncoder.modules()`, where the file holds weights for them.
        """


def check_base(name: str, base: "BaseModel") -> None:
    """Look at a base model's configs alone; imports torch.

    Raises:
        TrainerError: BaseModelInvalid; the model is of another family or does not fit.
    """
    import_module("lora_trainer.recipes.checking").refuse_odd_numbers(base)
    import_module(RECIPES[name].module).check(base)
    for expert in load_recipe(name, base).experts():
        expert.skeleton()


def load_recipe(name: str, base: "BaseModel") -> Recipe:
    """The recipe of that name for a base model; imports torch."""
    module: Any = import_module(RECIPES[name].module)
    return cast(Recipe, module.RECIPE(base))
