"""The variational autoencoder of pictures, as sd15, sdxl and flux have it.

A module of its own because these three differ in nothing but the numbers that latents are scaled
with, and those belong to the recipes.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes.loading import load_component
from lora_trainer.transfer import sent


def load_vae(
    base: BaseModel,
    device: torch.device,
    model: Any = AutoencoderKL,
    *,
    without: str | None = None,
) -> Any:
    """The autoencoder, in float32: half precision overflows in those of sd15 and sdxl.

    Args:
        base: The base model.
        device: Where to.
        model: Its class.
        without: `encoder` or `decoder`, the half that is not asked for.
    """
    return load_component(model, base, "vae", device=device, dtype=torch.float32, without=without)


class KlEncoder:
    """Encodes pictures with an autoencoder of diffusers.

    Args:
        vae: The model.
        device: Where it is.
    """

    def __init__(self, vae: Any, device: torch.device) -> None:
        self._vae = vae
        self._device = device

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """[batch, 3, height, width] in -1..1 to moments on the CPU."""
        posterior = self._vae.encode(pixels.to(self._device)).latent_dist
        moments: torch.Tensor = posterior.parameters.cpu()
        return moments


def draw_latents(moments: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latents from the encoder's distribution, with noise from the CPU so that it can be repeated.

    Args:
        moments: [batch, 2 * channels, h, w]: means, then log variances.
        generator: On the CPU.
    """
    mean, log_variance = moments.float().chunk(2, dim=1)
    noise = sent(torch.randn(mean.shape, generator=generator), mean.device)
    return mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise


def decoded(vae: Any, latents: torch.Tensor) -> list[Image.Image]:
    """Pictures of latents, one at a time because that is where drawing needs most memory.

    Args:
        vae: An AutoencoderKL; its config says how latents are scaled.
        latents: [batch, channels, h, w], scaled.
    """
    latents = latents.float() / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return [to_picture(vae.decode(one[None]).sample[0]) for one in latents]


def to_picture(pixels: torch.Tensor) -> Image.Image:
    """[3, height, width] in about -1..1 as a picture."""
    values = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
