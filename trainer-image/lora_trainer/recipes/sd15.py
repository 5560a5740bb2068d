"""Stable Diffusion 1.5 and models of its shape: UNet, CLIP text encoder, VAE.

The one file that knows this family. Cost per step: one UNet forward and backward; the VAE and the
text encoder run once per picture and caption, before training.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes import (
    NO_TEXT_ENCODERS,
    NO_TEXT_WEIGHTS,
    Batch,
    Conditioning,
    LossSettings,
    Part,
    PictureEncoder,
    Recipe,
    Sampler,
    TextEncoder,
)
from lora_trainer.recipes.attaching import attach_with
from lora_trainer.recipes.checking import refuse_faults
from lora_trainer.recipes.clip import ClipText
from lora_trainer.recipes.ddpm import PREDICTIONS, NoisePrediction
from lora_trainer.recipes.keys import KOHYA, lora_file, text_layer, unet_layer
from lora_trainer.recipes.loading import load_component, skeleton_of
from lora_trainer.recipes.single_file import single_file_faults
from lora_trainer.recipes.vae import KlEncoder, draw_latents, to_picture


def check(base: BaseModel) -> None:
    """Compare the configs with what this family looks like.

    Raises:
        TrainerError: BaseModelInvalid with all that differs.
    """
    faults = _config_faults(base.configs)
    faults += single_file_faults(base, kinds=frozenset({"v1"}))
    refuse_faults("Stable Diffusion 1.5", faults)


class StableDiffusion15:
    """The recipe `sd15` for one base model."""

    part = Part()

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._prediction = NoisePrediction(base.configs["scheduler"])
        self._scaling_factor = float(base.configs["vae"].get("scaling_factor", 0.18215))

    def experts(self) -> tuple[Recipe, ...]:
        """Itself: there is one UNet."""
        return (self,)

    def skeleton(self) -> torch.nn.Module:
        """The UNet on the meta device."""
        return skeleton_of(UNet2DConditionModel, self._base, "unet")

    def load_denoiser(self, *, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """The UNet, frozen."""
        unet: torch.nn.Module = load_component(
            UNet2DConditionModel, self._base, "unet", device=device, dtype=dtype
        )
        return unet

    def load_picture_encoder(self, *, device: torch.device) -> PictureEncoder:
        """The VAE; in float32, because half precision overflows in this one."""
        return KlEncoder(_load_vae(self._base, device), device)

    def load_text_encoder(self, *, device: torch.device) -> TextEncoder:
        """Tokenizer and CLIP text model."""
        return _Text(self._base, device)

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

        def predict(noisy: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            predicted: torch.Tensor = unet(
                noisy.to(unet.dtype),
                steps,
                encoder_hidden_states=batch.text["hidden_states"].to(unet.dtype),
                return_dict=False,
            )[0]
            return predicted

        return self._prediction.losses(
            predict, latents, batch.levels, settings=settings, generator=generator
        )

    def sampler(self, denoisers: Sequence[torch.nn.Module], *, device: torch.device) -> Sampler:
        """DPM-Solver++ through the diffusers pipeline."""
        return _PipelineSampler(self._base, denoisers[0], device)

    def to_file(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        alpha: float,
        text_weights: Mapping[str, Mapping[str, torch.Tensor]] = NO_TEXT_WEIGHTS,
    ) -> dict[str, torch.Tensor]:
        """Kohya keys: ``lora_unet_*`` and ``lora_te_*`` with a float alpha per layer."""
        tensors = lora_file(weights, alpha=alpha, name_of=unet_layer, endings=KOHYA)
        for trained in text_weights.values():
            names = text_layer("lora_te")
            tensors |= lora_file(trained, alpha=alpha, name_of=names, endings=KOHYA)
        return tensors

    def attach_file(
        self,
        denoiser: torch.nn.Module,
        path: Path,
        *,
        name: str,
        text_encoders: Mapping[str, torch.nn.Module] = NO_TEXT_ENCODERS,
    ) -> None:
        """`load_lora_weights` of the pipeline that users load the file into."""
        attach_with(_pipeline(denoiser, **text_encoders), path, name=name)


def _config_faults(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    index, unet = configs["model_index"], configs["unet"]
    vae, text = configs["vae"], configs["text_encoder"]
    faults = []
    if unet.get("_class_name") != "UNet2DConditionModel":
        faults.append(f"unet/config.json is of class {unet.get('_class_name')}")
    if "text_encoder_2" in index or unet.get("addition_embed_type"):
        faults.append("it has the second text encoder of SDXL")
    if unet.get("cross_attention_dim") == 1024:
        faults.append("it is Stable Diffusion 2.x (text of width 1024)")
    if unet.get("in_channels") != vae.get("latent_channels"):
        faults.append(
            f"the UNet takes {unet.get('in_channels')} channels, the VAE makes "
            f"{vae.get('latent_channels')} (inpainting models take 9)"
        )
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        faults.append(
            f"the UNet expects text of width {unet.get('cross_attention_dim')}, the text encoder "
            f"makes {text.get('hidden_size')}"
        )
    if configs["scheduler"].get("prediction_type", "epsilon") not in PREDICTIONS:
        faults.append(f"its prediction_type is {configs['scheduler']['prediction_type']}")
    return faults


class _Text:
    def __init__(self, base: BaseModel, device: torch.device) -> None:
        self._clip = ClipText(CLIPTextModel, base, device=device)

    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        return [{"hidden_states": self._clip.run(text).last_hidden_state[0]} for text in texts]

    def truncated(self, text: str) -> str | None:
        return self._clip.truncated(text)

    def modules(self) -> Mapping[str, torch.nn.Module]:
        return {self._clip.name: self._clip.model}


class _PipelineSampler:
    def __init__(self, base: BaseModel, denoiser: torch.nn.Module, device: torch.device) -> None:
        self._device = device
        self._pipeline = _pipeline(
            denoiser,
            vae=_load_vae(base, device),
            scheduler=DPMSolverMultistepScheduler.from_config(base.configs["scheduler"]),
        )

    @torch.inference_mode()
    def draw(
        self,
        *,
        prompt: Conditioning,
        empty: Conditioning,
        seeds: Sequence[int],
        resolution: int,
        steps: int,
        guidance_scale: float,
    ) -> list[Image.Image]:
        dtype = self._pipeline.unet.dtype
        count = len(seeds)
        latents = self._pipeline(
            prompt_embeds=_repeat(prompt["hidden_states"], count).to(self._device, dtype),
            negative_prompt_embeds=_repeat(empty["hidden_states"], count).to(self._device, dtype),
            height=resolution,
            width=resolution,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
        ).images
        vae = self._pipeline.vae
        latents = latents.float() / vae.config.scaling_factor
        return [to_picture(vae.decode(one[None]).sample[0]) for one in latents]


def _repeat(embedding: torch.Tensor, count: int) -> torch.Tensor:
    return embedding.expand(count, *embedding.shape)


def _load_vae(base: BaseModel, device: torch.device) -> Any:
    return load_component(AutoencoderKL, base, "vae", device=device, dtype=torch.float32)


def _pipeline(
    denoiser: torch.nn.Module,
    *,
    vae: Any = None,
    scheduler: Any = None,
    text_encoder: Any = None,
) -> Any:
    """The pipeline without the parts that are not needed."""
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=None,
        unet=denoiser,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


RECIPE: type[Recipe] = StableDiffusion15
