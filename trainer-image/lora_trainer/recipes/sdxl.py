"""Stable Diffusion XL and models of its shape: UNet, two CLIP text encoders, VAE.

The one file that knows this family. Cost per step: one UNet forward and backward; the VAE and the
text encoders run once per picture and caption, before training.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes import NO_TEXT_WEIGHTS, Batch, Conditioning, Recipe, TextEncoder
from lora_trainer.recipes.checking import refuse_faults
from lora_trainer.recipes.clip import ClipText
from lora_trainer.recipes.keys import KOHYA, lora_file, sdxl_unet_layer, text_layer
from lora_trainer.recipes.single_file import single_file_faults
from lora_trainer.recipes.unet import UnetRecipe, unet_faults
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
    faults += unet_faults(base.configs)
    faults += single_file_faults(base, kinds=frozenset({"xl_base"}))
    refuse_faults("Stable Diffusion XL", faults)


class StableDiffusionXl(UnetRecipe):
    """The recipe `sdxl` for one base model."""

    pipeline = StableDiffusionXLPipeline
    pipeline_settings: ClassVar = {"add_watermarker": False}
    usual_scaling = 0.13025

    def __init__(self, base: BaseModel) -> None:
        super().__init__(base)
        self._layers_per_block = int(base.configs["unet"].get("layers_per_block", 2))

    def load_text_encoder(self, *, device: torch.device) -> TextEncoder:
        """Both tokenizers and CLIP text models."""
        return _Text(self._base, device)

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

    def _told(
        self, batch: Batch, device: torch.device, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        # "SDXL" (arXiv:2307.01952), section 2.2: size before scaling, crop's corner, size.
        return {
            # In float32, as pixels: bfloat16 has steps of 8 from 1024 on, and they are embedded.
            "time_ids": sent(batch.geometry, device).float(),
            "text_embeds": batch.text["pooled"].to(dtype),
        }

    @staticmethod
    def _words(prompt: Conditioning, empty: Conditioning) -> Mapping[str, torch.Tensor]:
        return {
            "prompt_embeds": prompt["hidden_states"],
            "pooled_prompt_embeds": prompt["pooled"],
            "negative_prompt_embeds": empty["hidden_states"],
            "negative_pooled_prompt_embeds": empty["pooled"],
        }


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


RECIPE: type[Recipe] = StableDiffusionXl
