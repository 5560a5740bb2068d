"""Train the autoencoder: pixels to latents and back.

It is trained first and alone, because the denoiser learns in its latents, which must then stay
what they are.
"""

# ruff: noqa: S311  # random pictures, not secrets

import random
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from smallbase import architecture, budget, parallel
from smallbase.pictures import Pictures
from smallbase.scenes import random_scene, random_texture

BATCH: Final = 8
"""Pictures per process and step."""
PEAK_LEARNING_RATE: Final = 8e-4  # above this the trials stalled
POOL_PICTURES: Final = 4000
"""Pictures drawn per process."""
CROP_PIXELS: Final = 32
CROP_SHARE: Final = 0.85
"""The first part of the budget trains on crops: a quarter of the work a step, and the receptive
field is smaller than a crop anyway. The rest sees whole pictures, borders included."""
KL_WEIGHT: Final = 1e-4
CHECKPOINT_STEPS: Final = 200


def to_tensor(images: list[Image.Image]) -> Tensor:
    """Stack RGB pictures to [batch, 3, height, width] bytes."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2)


def to_signed(pixels: Tensor) -> Tensor:
    """Map bytes 0..255 to floats -1..1."""
    return pixels.float() / 127.5 - 1


def _edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    down = pixels[..., 1:, :] - pixels[..., :-1, :]
    across = pixels[..., :, 1:] - pixels[..., :, :-1]
    return down, across


def reconstruction_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Compare pictures in -1..1; the edge term is what keeps outlines sharp."""
    error = decoded - pixels
    edges = [
        (ours - wanted).abs().mean()
        for ours, wanted in zip(_edges(decoded), _edges(pixels), strict=True)
    ]
    loss: Tensor = error.abs().mean() + 2 * error.pow(2).mean() + 0.5 * (edges[0] + edges[1])
    return loss


def _loss(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(pixels).latent_dist
        decoded = model.decode(posterior.sample()).sample
    mean, variance, log = posterior.mean.float(), posterior.var.float(), posterior.logvar.float()
    kl = 0.5 * (mean.pow(2) + variance - 1 - log).mean()
    loss: Tensor = reconstruction_loss(decoded.float(), pixels) + KL_WEIGHT * kl
    return loss


def _batch(pool: Tensor, *, crop: bool) -> Tensor:
    pixels = to_signed(pool[torch.randint(0, len(pool), (BATCH,))])
    if torch.rand(()) < 0.5:
        pixels = pixels.flip(-1)
    if crop:
        top, left = torch.randint(0, pixels.shape[-1] - CROP_PIXELS + 1, (2,)).tolist()
        pixels = pixels[..., top : top + CROP_PIXELS, left : left + CROP_PIXELS]
    return pixels.contiguous()


def train(pictures: Pictures, *, minutes: float, folder: Path, seed: int = 0) -> None:
    """Train for `minutes`, continuing from `folder/vae.pt`, and write `folder/vae/`."""
    torch.manual_seed(seed)
    rng = random.Random(1000 * seed + parallel.rank())
    model = architecture.autoencoder()
    with torch.no_grad():  # begin with little noise on the latents
        model.quant_conv.weight[architecture.LATENT_CHANNELS :] *= 0.1
        model.quant_conv.bias[architecture.LATENT_CHANNELS :] = -5.0
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, PEAK_LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    clock = budget.Budget(minutes=minutes)
    if state := budget.load(folder / "vae.pt"):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        clock.resume(state["clock"])
    torch.manual_seed(1000 * (clock.step + 1) + parallel.rank())
    pool = to_tensor([random_texture(pictures, rng) for _ in range(POOL_PICTURES)])
    for now in clock.steps():
        rate = budget.learning_rate(PEAK_LEARNING_RATE, now, warmup_steps=100, hold=0.2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _loss(model, _batch(pool, crop=now.share < CROP_SHARE))
        budget.clip_and_step(loss, parameters, optimizer)
        if now.step % 50 == 0 and parallel.rank() == 0:
            line = f"vae step={now.step} minutes={now.minutes:.2f} lr={rate:.6f}"
            print(f"{line} loss={loss.item():.4f}", flush=True)
        if now.step % CHECKPOINT_STEPS == CHECKPOINT_STEPS - 1 and parallel.rank() == 0:
            budget.save(
                folder / "vae.pt",
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "clock": clock.state(),
                },
            )
    if parallel.rank() == 0:
        _finish(model.eval(), pictures, folder=folder, seed=seed, steps=clock.step)


def _finish(
    model: AutoencoderKL, pictures: Pictures, *, folder: Path, seed: int, steps: int
) -> None:
    scenes = [random_scene(pictures, random.Random(seed + 1 + i)).image for i in range(512)]
    standardise(model, to_signed(to_tensor(scenes)))
    model.save_pretrained(folder / "vae")
    unseen = [random_texture(pictures, random.Random(10**6 + i)) for i in range(256)]
    print(f"vae done steps={steps} psnr_db={psnr(model, unseen):.2f}", flush=True)


@torch.no_grad()
def standardise(model: AutoencoderKL, pixels: Tensor) -> None:
    """Make every latent channel have mean 0 and deviation 1 after the usual scaling factor.

    The shift and scale are folded into the two 1 x 1 convolutions around the latents: what the
    model draws stays the same, and `scaling_factor` can stay Stable Diffusion's.
    """
    latents = torch.cat([model.encode(part).latent_dist.mean for part in torch.split(pixels, 64)])
    channels = architecture.LATENT_CHANNELS
    mean = latents.mean((0, 2, 3))
    scale = architecture.SCALING_FACTOR * latents.std((0, 2, 3))
    into, out = model.quant_conv, model.post_quant_conv
    into.weight[:channels] /= scale.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / scale
    into.bias[channels:] -= 2 * scale.log()  # the log variance follows the scale
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
    out.weight *= scale.view(1, -1, 1, 1)


@torch.no_grad()
def psnr(model: AutoencoderKL, images: list[Image.Image]) -> float:
    """Return the peak signal-to-noise ratio in decibels of encoding and decoding `images`."""
    pixels = to_signed(to_tensor(images))
    decoded = torch.cat(
        [model.decode(model.encode(p).latent_dist.mean).sample for p in torch.split(pixels, 64)]
    )
    return float(10 * torch.log10(4 / (decoded.clamp(-1, 1) - pixels).pow(2).mean()))
