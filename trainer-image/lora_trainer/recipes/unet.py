"""Recipes whose denoiser is a UNet that predicts noise or velocity: sd15 and sdxl.

A module of its own because their loss, their sampler and most that can be wrong with them are the
same; what a UNet is told beside the picture, and the file, are the family's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes import Batch, Conditioning, LossSettings, Sampler
from lora_trainer.recipes.checking import understood
from lora_trainer.recipes.ddpm import PREDICTIONS, NoisePrediction
from lora_trainer.recipes.denoiser import DenoiserRecipe
from lora_trainer.recipes.pipelines import PipelineSampler
from lora_trainer.recipes.vae import decoded, draw_latents, load_vae

# A picture, a class or a guidance scale, beside latents, step and text.
_OTHER_INPUTS = (
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "time_cond_proj_dim",
)


def unet_faults(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a UNet can't be trained with, whatever its family."""
    made, taken = configs["vae"].get("latent_channels"), configs["unet"].get("in_channels")
    faults = []
    if taken != made:
        faults.append(
            f"the UNet takes {taken} channels, the VAE makes {made} (inpainting models take 9)"
        )
    faults += _scheduler_faults(configs["scheduler"])
    faults += [
        f"vae/config.json: {field} is set, which the latents of this family are not scaled with"
        for field in ("latents_mean", "latents_std", "shift_factor")
        if configs["vae"].get(field)
    ]
    faults += [
        f"unet/config.json: {field} is set, a further input that is not trained here"
        for field in _OTHER_INPUTS
        if configs["unet"].get(field) is not None
    ]
    return faults


def _scheduler_faults(scheduler: Mapping[str, Any]) -> list[str]:
    """Noise levels of other mathematics; diffusers would put its defaults in their place."""
    place, kind = "scheduler/scheduler_config.json", str(scheduler.get("_class_name"))
    faults = []
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        faults.append(f"{place}: its prediction_type is {prediction}")
    if kind.startswith(("EDM", "FlowMatch")):
        faults.append(f"{place}: _class_name is {kind}, whose noise levels are others")
    elif not scheduler.get("trained_betas"):
        faults += [
            f"{place}: {field} is missing, so its noise levels are not known"
            for field in ("beta_start", "beta_end")
            if not isinstance(scheduler.get(field), float | int)
        ]
    return faults


class UnetRecipe(DenoiserRecipe):
    """The frame of a recipe for a UNet.

    Args:
        base: The base model.
    """

    model = UNet2DConditionModel
    component = "unet"

    usual_scaling: ClassVar[float]
    """Scaling factor of the latents, where the VAE's config names none."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__(base)
        with understood("scheduler"):
            self._prediction = NoisePrediction(base.configs["scheduler"])
        self._scaling_factor = float(base.configs["vae"].get("scaling_factor", self.usual_scaling))

    def losses(
        self,
        denoiser: torch.nn.Module,
        batch: Batch,
        *,
        settings: LossSettings,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Mean squared error of the predicted noise (or velocity) of each sample."""
        unet: Any = denoiser
        latents = draw_latents(batch.moments, generator) * self._scaling_factor
        told = self._told(batch, latents.device, unet.dtype)

        def predict(noisy: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            predicted: torch.Tensor = unet(
                noisy.to(unet.dtype),
                steps,
                encoder_hidden_states=batch.text["hidden_states"].to(unet.dtype),
                added_cond_kwargs=told,
                return_dict=False,
            )[0]
            return predicted

        return self._prediction.losses(
            predict, latents, batch.levels, settings=settings, generator=generator
        )

    def sampler(self, denoisers: Sequence[torch.nn.Module], *, device: torch.device) -> Sampler:
        """DPM-Solver++ through the diffusers pipeline."""
        vae = load_vae(self._base, device, without="encoder")
        scheduler = DPMSolverMultistepScheduler.from_config(self._base.configs["scheduler"])
        return PipelineSampler(
            self._piped(denoisers[0], vae=vae, scheduler=scheduler),
            denoisers[0],
            device=device,
            words=self._words,
            decode=lambda latents, _: decoded(vae, latents),
        )

    def _told(
        self, batch: Batch, device: torch.device, dtype: torch.dtype
    ) -> dict[str, torch.Tensor] | None:
        """What the UNet is told beside picture, step and text."""
        return None

    @staticmethod
    def _words(prompt: Conditioning, empty: Conditioning) -> Mapping[str, torch.Tensor]:
        """The texts by the pipeline's names for them."""
        return {
            "prompt_embeds": prompt["hidden_states"],
            "negative_prompt_embeds": empty["hidden_states"],
        }
