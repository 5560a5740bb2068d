"""Stable Diffusion 1.5 and models of its shape: UNet, CLIP text encoder, VAE.

The one file that knows this family. Cost per step: one UNet forward and backward; the VAE and the
text encoder run once per picture and caption, before training.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes import NO_TEXT_WEIGHTS, Conditioning, Recipe, TextEncoder
from lora_trainer.recipes.checking import refuse_faults
from lora_trainer.recipes.clip import ClipText
from lora_trainer.recipes.keys import KOHYA, lora_file, text_layer, unet_layer
from lora_trainer.recipes.single_file import single_file_faults
from lora_trainer.recipes.unet import UnetRecipe, unet_faults


def check(base: BaseModel) -> None:
    """Compare the configs with what this family looks like.

    Raises:
        TrainerError: BaseModelInvalid with all that differs.
    """
    faults = _config_faults(base.configs) + unet_faults(base.configs)
    faults += single_file_faults(base, kinds=frozenset({"v1"}))
    refuse_faults("Stable Diffusion 1.5", faults)


class StableDiffusion15(UnetRecipe):
    """The recipe `sd15` for one base model."""

    pipeline = StableDiffusionPipeline
    pipeline_settings: ClassVar = {"requires_safety_checker": False}
    usual_scaling = 0.18215

    def load_text_encoder(self, *, device: torch.device) -> TextEncoder:
        """Tokenizer and CLIP text model."""
        return _Text(self._base, device)

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


def _config_faults(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    index, unet, text = configs["model_index"], configs["unet"], configs["text_encoder"]
    faults = []
    if unet.get("_class_name") != "UNet2DConditionModel":
        faults.append(f"unet/config.json is of class {unet.get('_class_name')}")
    if "text_encoder_2" in index or unet.get("addition_embed_type"):
        faults.append("it has the second text encoder of SDXL")
    if unet.get("cross_attention_dim") == 1024:
        faults.append("it is Stable Diffusion 2.x (text of width 1024)")
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        faults.append(
            f"the UNet expects text of width {unet.get('cross_attention_dim')}, the text encoder "
            f"makes {text.get('hidden_size')}"
        )
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


RECIPE: type[Recipe] = StableDiffusion15
