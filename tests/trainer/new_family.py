"""A fifth family, written by the walk-through in docs/recipes.md and by nothing else.

AuraFlow: a transformer that predicts flow on plain latents, UMT5, a VAE. It is a test's family and
no product: nobody has compared what it learns with AuraFlow's own training.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tests.trainer import tiny_t5
from tests.trainer.tiny_vae import make_vae
from transformers import UMT5Config, UMT5EncoderModel

from lora_api.recipes import REFUSED_BY_FLOW, FileFormat, RecipeDefaults
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
from lora_trainer.recipes.denoiser import DenoiserRecipe
from lora_trainer.recipes.flow import flow_losses, sigmas_at
from lora_trainer.recipes.pipelines import PipelineSampler
from lora_trainer.recipes.t5 import T5Text
from lora_trainer.recipes.vae import decoded, draw_latents, load_vae

FACTS = RecipeDefaults(
    module="tests.trainer.new_family",
    pipeline="AuraFlowPipeline",
    resolution=1024,
    guidance_scale=3.5,
    bucket_step=16,
    components=("transformer", "vae", "text_encoder", "tokenizer", "scheduler"),
    weightless=frozenset({"tokenizer", "scheduler"}),
    single_file=frozenset({"transformer"}),
    file_format=FileFormat.DIFFUSERS,
    base_version="auraflow",
    architecture="auraflow/lora",
    network_module="",
    refused=REFUSED_BY_FLOW,
)


def check(base: BaseModel) -> None:
    """Compare the configs with what this family looks like."""
    taken = base.configs["transformer"].get("in_channels")
    made = base.configs["vae"].get("latent_channels")
    faults = []
    if taken != made:
        faults.append(f"the transformer takes {taken} channels, the VAE makes {made}")
    refuse_faults("AuraFlow", faults)


class AuraFlow(DenoiserRecipe):
    """The recipe for one base model."""

    model = AuraFlowTransformer2DModel
    component = "transformer"
    pipeline = AuraFlowPipeline

    def load_text_encoder(self, *, device: torch.device) -> TextEncoder:
        """UMT5."""
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
        scale = float(self._base.configs["vae"]["scaling_factor"])
        latents = draw_latents(batch.moments, generator) * scale
        transformer: Any = denoiser

        def predict(noisy: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
            predicted: torch.Tensor = transformer(
                noisy.to(transformer.dtype),
                encoder_hidden_states=batch.text["hidden_states"].to(transformer.dtype),
                timestep=sigmas.to(transformer.dtype),
                return_dict=False,
            )[0]
            return predicted

        sigmas = sigmas_at(batch.levels, shift=settings.timestep_shift or 1.73)
        return flow_losses(predict, latents, sigmas, generator)

    def sampler(self, denoisers: Sequence[torch.nn.Module], *, device: torch.device) -> Sampler:
        """Euler steps through the diffusers pipeline."""
        vae = load_vae(self._base, device)
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self._base.configs["scheduler"])
        return PipelineSampler(
            self._piped(denoisers[0], vae=vae, scheduler=scheduler),
            denoisers[0],
            device=device,
            words=_words,
            decode=lambda latents, _: decoded(vae, latents),
        )

    def to_file(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        alpha: float,
        text_weights: Mapping[str, Mapping[str, torch.Tensor]] = NO_TEXT_WEIGHTS,
    ) -> dict[str, torch.Tensor]:
        """Diffusers' own names; its loader refuses alphas, so the scale goes into the weights."""
        return {
            f"transformer.{name}": one * (alpha / one.shape[-1]) if "lora_B" in name else one
            for name, one in weights.items()
        }


class _Text:
    def __init__(self, base: BaseModel, device: torch.device) -> None:
        self._t5 = T5Text(UMT5EncoderModel, base, device=device)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        return [{"hidden_states": self._t5.run(text, masked=True)} for text in texts]

    def truncated(self, text: str) -> str | None:
        return self._t5.truncated(text)

    def modules(self) -> Mapping[str, torch.nn.Module]:
        return {}


def _words(prompt: Conditioning, empty: Conditioning) -> Mapping[str, torch.Tensor]:
    ones = torch.ones(prompt["hidden_states"].shape[0])
    return {
        "prompt_embeds": prompt["hidden_states"],
        "prompt_attention_mask": ones,
        "negative_prompt_embeds": empty["hidden_states"],
        "negative_prompt_attention_mask": ones,
    }


RECIPE: type[Recipe] = AuraFlow


def make_auraflow(folder: Path) -> Path:
    """The family in miniature."""
    torch.manual_seed(0)
    AuraFlowTransformer2DModel(
        sample_size=16,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=tiny_t5.WIDTH,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    ).save_pretrained(folder / "transformer")
    make_vae(folder, scaling_factor=0.13025)
    tiny_t5.make_t5(UMT5EncoderModel, UMT5Config, folder)
    FlowMatchEulerDiscreteScheduler(shift=1.73).save_pretrained(folder / "scheduler")
    index = {"_class_name": "AuraFlowPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
