"""WAN 2.1 and 2.2, text to video: a transformer on pictures and clips, UMT5, a video VAE.

The one file that knows this family: 2.1 (1.3B, 14B) and 2.2's 5B have one transformer; 2.2's A14B
has two experts, one for much noise, one for little, which are trained one after the other. Cost
per step: one forward and backward of a transformer; a clip of n latent frames costs n pictures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from transformers import UMT5EncoderModel

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
from lora_trainer.recipes.checking import per_channel_fault, refuse_faults, refuse_other_width
from lora_trainer.recipes.denoiser import DenoiserRecipe
from lora_trainer.recipes.flow import flow_losses, level_at, sigmas_at
from lora_trainer.recipes.keys import PEFT, lora_file, wan_layer
from lora_trainer.recipes.loading import keep_precision
from lora_trainer.recipes.pipelines import Decode, PipelineSampler, bare_pipeline, taking_turns
from lora_trainer.recipes.single_file import single_file_faults
from lora_trainer.recipes.t5 import T5Text
from lora_trainer.recipes.vae import KlEncoder, load_vae, to_picture
from lora_trainer.transfer import sent

# What WAN was published with for 480 p, where the base model's scheduler says nothing.
_USUAL_SHIFT = 3.0
_HIGH, _LOW = "transformer", "transformer_2"


def check(base: BaseModel) -> None:
    """Compare the configs with what this family looks like.

    Raises:
        TrainerError: BaseModelInvalid with all that differs.
    """
    transformer, vae = base.configs[_HIGH], base.configs["vae"]
    faults = []
    if transformer.get("_class_name") != "WanTransformer3DModel":
        faults.append(f"transformer/config.json is of class {transformer.get('_class_name')}")
    elif transformer.get("image_dim") is not None or transformer.get("in_channels") == 36:
        faults.append("it makes videos from a picture (I2V), which is not trained here")
    elif transformer.get("in_channels") != vae.get("z_dim"):
        faults.append(
            f"the transformer takes {transformer.get('in_channels')} channels, the VAE makes "
            f"{vae.get('z_dim')} (2.1 and 2.2 A14B have 16, 2.2 5B has 48)"
        )
    faults += [
        fault
        for field in ("latents_mean", "latents_std")
        if (fault := per_channel_fault(vae, field, vae.get("z_dim")))
    ]
    width = base.configs["text_encoder"].get("d_model")
    if transformer.get("text_dim", width) != width:
        faults.append(
            f"the transformer expects text of width {transformer['text_dim']}, the text encoder "
            f"makes {width}"
        )
    if _LOW in base.configs:
        other = base.configs[_LOW]
        differing = [name for name in _SHAPE if transformer.get(name) != other.get(name)]
        if differing:
            faults.append(f"its two experts differ in {', '.join(differing)}")
        if not _boundary(base):
            faults.append("it has two experts, but model_index.json names no boundary_ratio")
    shapes = {"patch_embedding.weight": (_width(transformer), transformer.get("in_channels", 16))}
    faults += single_file_faults(base, kinds=_SINGLE_FILES, shapes=shapes)
    refuse_faults("WAN text-to-video", faults)


# Diffusers takes 2.2 5B for an I2V model; the shape of its first layer tells them apart.
_SINGLE_FILES = frozenset({"wan-t2v-1.3B", "wan-t2v-14B", "wan-i2v-14B"})
_SIZES = {1536: "WAN 1.3B", 3072: "WAN 2.2 5B", 5120: "WAN 14B"}
_SHAPE = ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "in_channels")


class Wan(DenoiserRecipe):
    """The recipe `wan` for one transformer of a base model.

    Args:
        base: The base model.
        component: The transformer's folder; of two experts, the one for little noise comes first.
    """

    model = WanTransformer3DModel
    pipeline = WanPipeline

    def __init__(self, base: BaseModel, component: str | None = None) -> None:
        super().__init__(base)
        two = _LOW in base.configs
        self.component = component or (_LOW if two else _HIGH)
        if two and self.component == _LOW:
            self.part = Part(name="low-noise")
        elif two:
            self.part = Part(name="high-noise", file="model-high-noise.safetensors")
        self._mean, self._std = _spread(base.configs["vae"])

    def experts(self) -> tuple[Recipe, ...]:
        """Itself, or one recipe for each expert of 2.2 A14B."""
        if self.part.name:
            return (Wan(self._base, _LOW), Wan(self._base, _HIGH))
        return (self,)

    def load_denoiser(self, *, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """The transformer, frozen; its time embedding, norms and tables stay in float32."""
        transformer = super().load_denoiser(device=device, dtype=dtype)
        keep_precision(transformer.get_submodule("condition_embedder.time_embedder"))
        return transformer

    def load_picture_encoder(self, *, device: torch.device) -> PictureEncoder:
        """The video VAE, in float32; a picture is a clip of one frame."""
        return _VideoEncoder(load_vae(self._base, device, AutoencoderKLWan), device)

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
        transformer: Any = denoiser
        # WAN's own code trains on the middle of the distribution: its VAE spreads very little.
        middle = batch.moments.float().chunk(2, dim=1)[0]
        mean, std = (sent(each, middle.device) for each in (self._mean, self._std))
        latents = (middle - mean) / std

        def predict(noisy: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
            predicted: torch.Tensor = transformer(
                hidden_states=noisy.to(transformer.dtype),
                timestep=1000.0 * sigmas,
                encoder_hidden_states=batch.text["hidden_states"].to(transformer.dtype),
                return_dict=False,
            )[0]
            return predicted

        return flow_losses(predict, latents, self._sigmas(batch.levels, settings), generator)

    def sampler(self, denoisers: Sequence[torch.nn.Module], *, device: torch.device) -> Sampler:
        """UniPC through the diffusers pipeline; draws single frames."""
        vae = load_vae(self._base, device, AutoencoderKLWan)
        parts = dict(
            zip((_LOW, _HIGH) if len(denoisers) == 2 else (_HIGH,), denoisers, strict=True)
        )
        pipeline = bare_pipeline(
            WanPipeline,
            **parts,
            vae=vae,
            scheduler=UniPCMultistepScheduler.from_config(
                self._base.configs["scheduler"],
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=_shift(self._base),
            ),
            boundary_ratio=_boundary(self._base) if len(denoisers) == 2 else None,
            expand_timesteps=bool(self._base.configs["model_index"].get("expand_timesteps")),
        )

        def decode(latents: torch.Tensor, _: int) -> list[Image.Image]:
            latents = latents * self._std.to(latents) + self._mean.to(latents)
            return [to_picture(vae.decode(one[None]).sample[0, :, 0]) for one in latents]

        return _Sampler(pipeline, denoisers, device=device, decode=decode)

    def to_file(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        alpha: float,
        text_weights: Mapping[str, Mapping[str, torch.Tensor]] = NO_TEXT_WEIGHTS,
    ) -> dict[str, torch.Tensor]:
        """The names of WAN's own code with a float alpha: ComfyUI and musubi-tuner read them."""
        assert not text_weights, "wan trains no text encoder"  # noqa: S101
        return lora_file(weights, alpha=alpha, name_of=wan_layer, endings=PEFT)

    def attach_file(
        self,
        denoiser: torch.nn.Module,
        path: Path,
        *,
        name: str,
        text_encoders: Mapping[str, torch.nn.Module] = NO_TEXT_ENCODERS,
    ) -> None:
        """`load_lora_weights` of the pipeline that users load the file into."""
        width = _width(self._base.configs[self.component])
        refuse_other_width(path, "attn.q.lora_A.weight", width=width, family="WAN", sizes=_SIZES)
        super().attach_file(denoiser, path, name=name, text_encoders=text_encoders)

    def _piped(self, denoiser: torch.nn.Module, **parts: Any) -> Any:
        """Whichever expert it is, a file alone is for the pipeline's first transformer."""
        return bare_pipeline(WanPipeline, **{_HIGH: denoiser}, **parts)

    def _sigmas(self, levels: torch.Tensor, settings: LossSettings) -> torch.Tensor:
        """Shares of noise, of those that this expert is asked for when a video is drawn."""
        shift = settings.timestep_shift or _shift(self._base)
        boundary = _boundary(self._base)
        if self.part.name and boundary:
            border = level_at(boundary, shift=shift)
            low, high = (0.0, border) if self.component == _LOW else (border, 1.0)
            levels = low + (high - low) * levels
        return sigmas_at(levels, shift=shift)


class _VideoEncoder(KlEncoder):
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().encode(pixels if pixels.dim() == 5 else pixels.unsqueeze(2))


class _Text:
    def __init__(self, base: BaseModel, device: torch.device) -> None:
        self._t5 = T5Text(UMT5EncoderModel, base, device=device)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Conditioning]:
        # WAN's own code and diffusers tidy the white space, and put zeros where padding is.
        return [
            {"hidden_states": self._t5.run(" ".join(text.split()), masked=True)} for text in texts
        ]

    def truncated(self, text: str) -> str | None:
        return self._t5.truncated(text)

    def modules(self) -> Mapping[str, torch.nn.Module]:
        return {}


class _Sampler(PipelineSampler):
    """Draws single frames; of two experts, the one that is asked is on the device."""

    def __init__(
        self,
        pipeline: Any,
        denoisers: Sequence[torch.nn.Module],
        *,
        device: torch.device,
        decode: Decode,
    ) -> None:
        super().__init__(
            pipeline, denoisers[0], device=device, words=_words, decode=decode, num_frames=1
        )
        self._denoisers = tuple(denoisers)
        self._place = device

    def draw(self, **asked: Any) -> list[Image.Image]:
        with taking_turns(self._denoisers, self._place):
            return super().draw(**asked)


def _words(prompt: Conditioning, empty: Conditioning) -> Mapping[str, torch.Tensor]:
    return {
        "prompt_embeds": prompt["hidden_states"],
        "negative_prompt_embeds": empty["hidden_states"],
    }


def _spread(vae: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the latents, each [1, channels, 1, 1, 1]."""
    mean, deviation = (
        torch.tensor(vae[name], dtype=torch.float32).view(1, -1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    return mean, deviation


def _width(config: Mapping[str, Any]) -> int:
    """Of the transformer's tokens."""
    return int(config.get("num_attention_heads", 40) * config.get("attention_head_dim", 128))


def _shift(base: BaseModel) -> float:
    scheduler = base.configs["scheduler"]
    return float(scheduler.get("flow_shift") or scheduler.get("shift") or _USUAL_SHIFT)


def _boundary(base: BaseModel) -> float | None:
    """Share of noise from which on the first of two experts is asked."""
    value = base.configs["model_index"].get("boundary_ratio")
    return float(value) if isinstance(value, int | float) and 0.0 < value < 1.0 else None


RECIPE: type[Recipe] = Wan
