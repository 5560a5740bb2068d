"""Stable Diffusion XL and models of its shape: UNet, two CLIP text encoders, VAE.

The one file that knows this family. Cost per step: one UNet forward and backward; the VAE and the
text encoders run once per picture and caption, before training.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTextModelWithProjection

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
from lora_trainer.recipes.keys import KOHYA, lora_file, sdxl_unet_layer, text_layer
from lora_trainer.recipes.loading import load_component, skeleton_of
from lora_trainer.recipes.single_file import single_file_faults
from lora_trainer.recipes.vae import KlEncoder, draw_latents, to_picture
from lora_trainer.transfer import sent

# sd-scripts' names of the two text encoders.
_TEXT_PREFIXES = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def check(base: BaseModel) -> None:
    """Compare the configs with what this family looks like.

    Raises:
        TrainerError: BaseModelInvalid with all that differs.
    """
    unet, text = base.configs["unet"], base.configs["text_encoder"]
    text_2, index = base.configs["text_encoder_2"], base.configs["model_index"]
    faults = []
    if index.get("requires_aesthetics_score") or unet.get("cross_attention_dim") == 1280:
        faults.append("it is the refiner of SDXL, which starts from another model's picture")
    elif unet.get("addition_embed_type") != "text_time":
        faults.append("its UNet takes no sizes and no pooled text, as SD 1.x and 2.x")
    widths = (text.get("hidden_size", 0), text_2.get("hidden_size", 0))
    if not faults and unet.get("cross_attention_dim") != sum(widths):
        faults.append(
            f"the UNet expects text of width {unet.get('cross_attention_dim')}, the text encoders "
            f"make {widths[0]} + {widths[1]}"
        )
    if unet.get("in_channels") != base.configs["vae"].get("latent_channels"):
        faults.append(
            f"the UNet takes {unet.get('in_channels')} channels, the VAE makes "
            f"{base.configs['vae'].get('latent_channels')} (inpainting models take 9)"
        )
    prediction = base.configs["scheduler"].get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        faults.append(f"its prediction_type is {prediction}")
    faults += single_file_faults(base, kinds=frozenset({"xl_base"}))
    refuse_faults("Stable Diffusion XL", faults)


class StableDiffusionXl:
    """The recipe `sdxl` for one base model."""

    part = Part()

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._prediction = NoisePrediction(base.configs["scheduler"])
        self._scaling_factor = float(base.configs["vae"].get("scaling_factor", 0.13025))
        self._layers_per_block = int(base.configs["unet"].get("layers_per_block", 2))

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
        """The VAE; in float32, because half precision overflows in the original one."""
        return KlEncoder(_load_vae(self._base, device), device)

    def load_text_encoder(self, *, device: torch.device) -> TextEncoder:
        """Both tokenizers and CLIP text models."""
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
        # "SDXL" (arXiv:2307.01952), section 2.2: size before scaling, crop's corner, size.
        told = {
            "time_ids": sent(batch.geometry, latents.device).to(unet.dtype),
            "text_embeds": batch.text["pooled"].to(unet.dtype),
        }

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
        return _PipelineSampler(self._base, denoisers[0], device)

    def to_file(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        alpha: float,
        text_weights: Mapping[str, Mapping[str, torch.Tensor]] = NO_TEXT_WEIGHTS,
    ) -> dict[str, torch.Tensor]:
        """Kohya keys: ``lora_unet_*``, ``lora_te1_*``, ``lora_te2_*``, a float alpha per layer."""
        names = sdxl_unet_layer(self._layers_per_block)
        tensors = lora_file(weights, alpha=alpha, name_of=names, endings=KOHYA)
        for component, trained in text_weights.items():
            names = text_layer(_TEXT_PREFIXES[component])
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


class _Text:
    def __init__(self, base: BaseModel, device: torch.device) -> None:
        self._first = ClipText(CLIPTextModel, base, device=device)
        self._second = ClipText(CLIPTextModelWithProjection, base, device=device, suffix="_2")

    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        return [self._encode(text) for text in texts]

    def truncated(self, text: str) -> str | None:
        return self._first.truncated(text)

    def modules(self) -> Mapping[str, torch.nn.Module]:
        return {clip.name: clip.model for clip in (self._first, self._second)}

    def _encode(self, text: str) -> Conditioning:
        first, second = self._first.run(text), self._second.run(text)
        # The last layer but one of both, as SDXL was trained.
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return {"hidden_states": hidden[0], "pooled": second.text_embeds[0]}


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
        def repeated(embedding: torch.Tensor) -> torch.Tensor:
            many = embedding.expand(len(seeds), *embedding.shape)
            return many.to(self._device, self._pipeline.unet.dtype)

        latents = self._pipeline(
            prompt_embeds=repeated(prompt["hidden_states"]),
            pooled_prompt_embeds=repeated(prompt["pooled"]),
            negative_prompt_embeds=repeated(empty["hidden_states"]),
            negative_pooled_prompt_embeds=repeated(empty["pooled"]),
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


def _load_vae(base: BaseModel, device: torch.device) -> Any:
    return load_component(AutoencoderKL, base, "vae", device=device, dtype=torch.float32)


def _pipeline(
    denoiser: torch.nn.Module,
    *,
    vae: Any = None,
    scheduler: Any = None,
    text_encoder: Any = None,
    text_encoder_2: Any = None,
) -> Any:
    """The pipeline without the parts that are not needed."""
    pipeline: Any = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=None,
        tokenizer_2=None,
        unet=denoiser,
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


RECIPE: type[Recipe] = StableDiffusionXl
