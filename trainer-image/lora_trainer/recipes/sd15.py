"""Stable Diffusion 1.5 and models of its shape: UNet, CLIP text encoder, VAE.

The one file that knows this family. Cost per step: one UNet forward and backward; the VAE and the
text encoder run once per picture and caption, before training.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

from lora_api.reasons import Reason
from lora_trainer.basemodel import BaseModel
from lora_trainer.errors import TrainerError
from lora_trainer.kohya import kohya_keys
from lora_trainer.recipes import (
    Batch,
    Conditioning,
    LossSettings,
    PictureEncoder,
    Recipe,
    Sampler,
    TextEncoder,
)


def check(base: BaseModel) -> None:
    """Compare the configs with what this family looks like.

    Raises:
        TrainerError: BaseModelInvalid with all that differs.
    """
    faults = _config_faults(base.configs)
    if faults:
        raise TrainerError(
            Reason.BASE_MODEL_INVALID,
            f"baseModel.uri: not a Stable Diffusion 1.5 model: {'; '.join(faults)}; name "
            "another base model or another recipe",
        )


class StableDiffusion15:
    """The recipe `sd15` for one base model."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._schedule: Any = DDPMScheduler.from_config(base.configs["scheduler"])
        self._levels = int(self._schedule.config.num_train_timesteps)
        self._scaling_factor = float(base.configs["vae"].get("scaling_factor", 0.18215))

    def skeleton(self) -> torch.nn.Module:
        """The UNet on the meta device."""
        with torch.device("meta"):
            unet: torch.nn.Module = UNet2DConditionModel.from_config(self._base.configs["unet"])
        return unet

    def load_denoiser(self, *, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """The UNet, frozen."""
        return _load(UNet2DConditionModel, self._base, "unet", device=device, dtype=dtype)

    def load_picture_encoder(self, *, device: torch.device) -> PictureEncoder:
        """The VAE; in float32, because half precision overflows in this one."""
        return _Vae(_load_vae(self._base, device), device)

    def load_text_encoder(self, *, device: torch.device) -> TextEncoder:
        """Tokenizer and CLIP text model."""
        return _Clip(self._base, device)

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
        latents = _draw(batch.moments, generator) * self._scaling_factor
        device = latents.device
        noise = torch.randn(latents.shape, generator=generator).to(device)
        steps = (batch.levels * self._levels).long().clamp_(0, self._levels - 1).to(device)
        noisy = self._schedule.add_noise(latents, noise, steps)
        predicted = unet(
            noisy.to(unet.dtype),
            steps,
            encoder_hidden_states=batch.text["hidden_states"].to(unet.dtype),
            return_dict=False,
        )[0]
        velocity = self._schedule.config.prediction_type == "v_prediction"
        target = self._schedule.get_velocity(latents, noise, steps) if velocity else noise
        squares: torch.Tensor = (predicted.float() - target).pow(2)
        return squares.mean(dim=(1, 2, 3))

    def sampler(self, denoiser: torch.nn.Module, *, device: torch.device) -> Sampler:
        """DPM-Solver++ through the diffusers pipeline."""
        return _PipelineSampler(self._base, denoiser, device)

    def to_file(
        self, weights: Mapping[str, torch.Tensor], *, alpha: float
    ) -> dict[str, torch.Tensor]:
        """Kohya keys: ``lora_unet_*`` with a float alpha per layer."""
        tensors = {}
        for layer, (down, up) in kohya_keys(weights, prefix="lora_unet").items():
            tensors[f"{layer}.lora_down.weight"] = weights[down].contiguous()
            tensors[f"{layer}.lora_up.weight"] = weights[up].contiguous()
            tensors[f"{layer}.alpha"] = torch.tensor(float(alpha))
        return tensors

    def attach_file(self, denoiser: torch.nn.Module, path: Path, *, name: str) -> None:
        """`load_lora_weights` of the pipeline that users load the file into."""
        with warnings.catch_warnings():
            # A second adapter beside the trained one is what we want here.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            _pipeline(denoiser).load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=name
            )


def _config_faults(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    index, unet = configs["model_index"], configs["unet"]
    vae, text = configs["vae"], configs["text_encoder"]
    faults = []
    if unet.get("_class_name") != "UNet2DConditionModel":
        faults.append(f"unet/config.json is of class {unet.get('_class_name')}")
    if "text_encoder_2" in index or unet.get("addition_embed_type"):
        faults.append("it has the second text encoder of SDXL")
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
    if configs["scheduler"].get("prediction_type", "epsilon") not in {"epsilon", "v_prediction"}:
        faults.append(f"its prediction_type is {configs['scheduler']['prediction_type']}")
    return faults


class _Vae:
    def __init__(self, vae: Any, device: torch.device) -> None:
        self._vae = vae
        self._device = device

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        posterior = self._vae.encode(pixels.to(self._device)).latent_dist
        moments: torch.Tensor = posterior.parameters.cpu()
        return moments


class _Clip:
    def __init__(self, base: BaseModel, device: torch.device) -> None:
        logging.disable_progress_bar()
        self._device = device
        self._tokenizer: Any = CLIPTokenizer.from_pretrained(base.folder / "tokenizer")
        longest = int(base.configs["text_encoder"].get("max_position_embeddings", 77))
        self._length = min(int(self._tokenizer.model_max_length), longest)
        self._model: Any = CLIPTextModel.from_pretrained(
            base.folder / "text_encoder",
            dtype=torch.float32,
            use_safetensors=True,
            variant=base.variants["text_encoder"],
            local_files_only=True,
        )
        self._model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        found = []
        for text in texts:  # one by one: a caption's embedding must not depend on its neighbours
            tokens = self._tokenizer(
                text,
                padding="max_length",
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            ).input_ids
            hidden = self._model(tokens.to(self._device))[0][0]
            found.append({"hidden_states": hidden.cpu()})
        return found

    def truncated(self, text: str) -> str | None:
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        room = self._length - 2  # begin and end of text
        return str(self._tokenizer.decode(ids[room:])).strip() if len(ids) > room else None


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
        return [self._decode(one[None]) for one in latents]

    def _decode(self, latents: torch.Tensor) -> Image.Image:
        vae = self._pipeline.vae
        decoded = vae.decode(latents.float() / vae.config.scaling_factor).sample[0]
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def _repeat(embedding: torch.Tensor, count: int) -> torch.Tensor:
    return embedding.expand(count, *embedding.shape)


def _draw(moments: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latents from the VAE's distribution, with noise from the CPU so that it can be repeated."""
    mean, log_variance = moments.float().chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise


def _load(
    model: Any, base: BaseModel, component: str, *, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    loaded: Any = model.from_pretrained(
        base.folder / component,
        torch_dtype=dtype,
        use_safetensors=True,
        variant=base.variants[component],
        local_files_only=True,
    )
    loaded.to(device).eval().requires_grad_(False)
    return loaded  # type: ignore[no-any-return]


def _load_vae(base: BaseModel, device: torch.device) -> Any:
    return _load(AutoencoderKL, base, "vae", device=device, dtype=torch.float32)


def _pipeline(denoiser: torch.nn.Module, *, vae: Any = None, scheduler: Any = None) -> Any:
    """The pipeline without the parts that are not needed."""
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
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
