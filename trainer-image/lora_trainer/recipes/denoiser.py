"""What every recipe does alike: load its denoiser and its VAE, and read its file back.

A module of its own so that a family's file holds what is that family's. It is the frame of a
recipe, not the protocol: whoever needs something else writes that method anew.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes import NO_TEXT_ENCODERS, Part, PictureEncoder, Recipe
from lora_trainer.recipes.loading import load_component, skeleton_of
from lora_trainer.recipes.pipelines import attach_with, bare_pipeline
from lora_trainer.recipes.vae import KlEncoder, load_vae


class DenoiserRecipe:
    """A recipe's frame for a base model with one denoiser.

    Args:
        base: The base model.
    """

    model: ClassVar[Any]
    """Class of the denoiser."""

    component: str
    """Its folder in the base model, and its name in the pipeline."""

    pipeline: ClassVar[Any]
    """Class of the pipeline that users load the file into."""

    pipeline_settings: ClassVar[Mapping[str, Any]] = {}
    """What the pipeline is told beside its parts."""

    part = Part()
    """The only one."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base

    def experts(self: Recipe) -> tuple[Recipe, ...]:
        """Itself: there is one denoiser."""
        return (self,)

    def skeleton(self) -> torch.nn.Module:
        """The denoiser on the meta device."""
        return skeleton_of(self.model, self._base, self.component)

    def load_denoiser(self, *, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """The denoiser, frozen."""
        loaded: torch.nn.Module = load_component(
            self.model, self._base, self.component, device=device, dtype=dtype
        )
        return loaded

    def load_picture_encoder(self, *, device: torch.device) -> PictureEncoder:
        """The VAE, in float32."""
        return KlEncoder(load_vae(self._base, device, without="decoder"), device)

    def attach_file(
        self,
        denoiser: torch.nn.Module,
        path: Path,
        *,
        name: str,
        text_encoders: Mapping[str, torch.nn.Module] = NO_TEXT_ENCODERS,
    ) -> None:
        """`load_lora_weights` of the pipeline that users load the file into."""
        attach_with(self._piped(denoiser, **text_encoders), path, name=name)

    def _piped(self, denoiser: torch.nn.Module, **parts: Any) -> Any:
        """The family's pipeline with these parts alone."""
        return bare_pipeline(
            self.pipeline, **{self.component: denoiser}, **self.pipeline_settings, **parts
        )
