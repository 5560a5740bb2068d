"""FLUX.1-dev and models of its shape: a transformer on packed latents, CLIP and T5, VAE.

The one file that knows this family. Cost per step: one forward and backward of the transformer,
12 billion weights in the original; VAE and text encoders run once, before training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from transformers import CLIPTextModel, T5EncoderModel

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes import (
    NO_TEXT_WEIGHTS,
    Batch,
    Conditioning,
    LossSettings,
    Recipe,
    Sampler,
    TextEncoder,
)
from lora_trainer.recipes.checking import refuse_faults
from lora_trainer.recipes.clip import ClipText
from lora_trainer.recipes.denoiser import DenoiserRecipe
from lora_trainer.recipes.flow import flow_losses, sigmas_at
from lora_trainer.recipes.keys import PEFT, lora_file
from lora_trainer.recipes.pipelines import PipelineSampler
from lora_trainer.recipes.single_file import single_file_faults
from lora_trainer.recipes.t5 import T5Text
from lora_trainer.recipes.vae import decoded, draw_latents, load_vae
from lora_trainer.transfer import sent

# Guidance is distilled into FLUX.1-dev; trained at 1 (as in sd-scripts), the LoRA keeps it whole.
_TRAINING_GUIDANCE = 1.0


def check(base: BaseModel) -> None:
    """Compare the configs with what this family looks like.

    Raises:
        TrainerError: BaseModelInvalid with all that differs.
    """
    transformer, vae = base.configs["transformer"], base.configs["vae"]
    scheduler = base.configs["scheduler"]
    faults = []
    if transformer.get("_class_name") != "FluxTransformer2DModel":
        faults.append(f"transformer/config.json is of class {transformer.get('_class_name')}")
    elif not transformer.get("guidance_embeds") and not scheduler.get("use_dynamic_shifting"):
        faults.append(
            "it is FLUX.1-schnell (no guidance embedding, no shift), which is distilled to draw in "
            "four steps and loses that in training"
        )
    channels = transformer.get("in_channels", 64)
    packed = 4 * int(vae.get("latent_channels") or 16)
    if not faults and channels != packed:
        faults.append(
            f"the transformer takes {channels} channels, packed latents have {packed} (the fill, "
            "depth and canny models take more)"
        )
    widths = (
        ("joint_attention_dim", "text_encoder_2", "d_model"),
        ("pooled_projection_dim", "text_encoder", "hidden_size"),
    )
    for expected, encoder, made in widths:
        if transformer.get(expected) != base.configs[encoder].get(made):
            faults.append(
                f"the transformer expects {expected} {transformer.get(expected)}, {encoder} makes "
                f"{base.configs[encoder].get(made)}"
            )
    width = transformer.get("num_attention_heads", 24) * transformer.get("attention_head_dim", 128)
    kinds = frozenset({"flux-dev"})
    faults += single_file_faults(base, kinds=kinds, shapes={"img_in.weight": (width, channels)})
    refuse_faults("FLUX.1-dev", faults)


class Flux(DenoiserRecipe):
    """The recipe `flux` for one base model."""

    model = FluxTransformer2DModel
    component = "transformer"
    pipeline = FluxPipeline

    def __init__(self, base: BaseModel) -> None:
        super().__init__(base)
        vae = base.configs["vae"]
        self._scaling_factor = float(vae.get("scaling_factor", 0.3611))
        self._shift_factor = float(vae.get("shift_factor") or 0.0)
        self._guided = bool(base.configs["transformer"].get("guidance_embeds"))

    def load_text_encoder(self, *, device: torch.device) -> TextEncoder:
        """CLIP for the pooled embedding, T5 for the words."""
        return _Text(self._base, device)

    def losses(
        self,
        denoiser: torch.nn.Module,
        batch: Batch,
        *,
        settings: LossSettings,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Mean squared error of the predicted velocity of each sample."""
        transformer: Any = denoiser
        latents = draw_latents(batch.moments, generator)
        latents = (latents - self._shift_factor) * self._scaling_factor
        count, _, height, width = latents.shape
        dtype, device = transformer.dtype, latents.device
        tokens = (height // 2) * (width // 2)
        shift = settings.timestep_shift or _shift_for(tokens, self._base.configs["scheduler"])
        guidance = torch.full((count,), _TRAINING_GUIDANCE, device=device) if self._guided else None
        words = batch.text["hidden_states"].to(dtype)

        def predict(noisy: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
            predicted = transformer(
                hidden_states=_pack(noisy).to(dtype),
                timestep=sigmas,  # the model itself counts in thousandths
                guidance=guidance,
                pooled_projections=batch.text["pooled"].to(dtype),
                encoder_hidden_states=words,
                txt_ids=torch.zeros(words.shape[1], 3, device=device, dtype=dtype),
                img_ids=sent(_places(height // 2, width // 2), device).to(dtype),
                return_dict=False,
            )[0]
            return _unpack(predicted, height, width)

        return flow_losses(predict, latents, sigmas_at(batch.levels, shift=shift), generator)

    def sampler(self, denoisers: Sequence[torch.nn.Module], *, device: torch.device) -> Sampler:
        """Euler steps through the diffusers pipeline."""
        vae = load_vae(self._base, device, without="encoder")
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self._base.configs["scheduler"])
        pipeline = self._piped(denoisers[0], vae=vae, scheduler=scheduler)

        def decode(packed: torch.Tensor, resolution: int) -> list[Image.Image]:
            side = resolution // pipeline.vae_scale_factor
            return decoded(vae, _unpack(packed.float(), side, side))

        return PipelineSampler(pipeline, denoisers[0], device=device, words=_words, decode=decode)

    def to_file(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        alpha: float,
        text_weights: Mapping[str, Mapping[str, torch.Tensor]] = NO_TEXT_WEIGHTS,
    ) -> dict[str, torch.Tensor]:
        """Diffusers' own names with a float alpha: ComfyUI reads the same."""
        assert not text_weights, "flux trains no text encoder"  # noqa: S101
        return lora_file(
            weights, alpha=alpha, name_of=lambda path: f"transformer.{path}", endings=PEFT
        )


class _Text:
    def __init__(self, base: BaseModel, device: torch.device) -> None:
        self._clip = ClipText(CLIPTextModel, base, device=device)
        self._t5 = T5Text(T5EncoderModel, base, device=device, suffix="_2")

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        # FLUX was trained with T5's output for padding, too: nothing is masked.
        return [
            {
                "hidden_states": self._t5.run(text, masked=False),
                "pooled": self._clip.run(text).pooler_output[0],
            }
            for text in texts
        ]

    def truncated(self, text: str) -> str | None:
        return self._t5.truncated(text)

    def modules(self) -> Mapping[str, torch.nn.Module]:
        return {}


def _words(prompt: Conditioning, empty: Conditioning) -> Mapping[str, torch.Tensor]:
    """Guidance is distilled into the model: nothing is contrasted with the empty text."""
    return {
        "prompt_embeds": prompt["hidden_states"],
        "pooled_prompt_embeds": prompt["pooled"],
    }


def _pack(latents: torch.Tensor) -> torch.Tensor:
    """[batch, channels, h, w] to [batch, h / 2 * w / 2, 4 * channels]: squares of four a token."""
    count, channels, height, width = latents.shape
    squares = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, 4 * channels)


def _unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `_pack`."""
    count, _, width_of_token = tokens.shape
    channels = width_of_token // 4
    squares = tokens.reshape(count, height // 2, width // 2, channels, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, height, width)


def _places(rows: int, columns: int) -> torch.Tensor:
    """[rows * columns, 3]: nothing, row and column of each token."""
    places = torch.zeros(rows, columns, 3)
    places[..., 1] = torch.arange(rows)[:, None]
    places[..., 2] = torch.arange(columns)[None]
    return places.reshape(-1, 3)


def _shift_for(tokens: int, scheduler: Mapping[str, Any]) -> float:
    """The shift that the model's own sampler uses for a picture of so many tokens.

    Linear in the tokens between (256, 0.5) and (4096, 1.15), then e to that, for FLUX.1-dev: 3.16
    at 1024 pixels.
    """
    if not scheduler.get("use_dynamic_shifting"):
        return float(scheduler.get("shift") or 1.0)
    few, many = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    return math.exp(low + (high - low) * (tokens - few) / (many - few))


RECIPE: type[Recipe] = Flux
