"""Train the autoencoder's decoder further, with the latents as they are.

Apart from `vae` because it may run at any time, also after the denoiser: the encoder, and with it
what the denoiser has learnt, stays the same bit for bit. Latents are computed once, so that all
the time goes into what makes pictures sharp.
"""

import random
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from smallbase import architecture, budget, parallel
from smallbase.pictures import Pictures
from smallbase.scenes import random_texture
from smallbase.vae import psnr, reconstruction_loss, to_signed, to_tensor

# ruff: noqa: S311  # random pictures, not secrets

BATCH: Final = 8
"""Pictures per process and step."""
POOL_PICTURES: Final = 4000
PEAK_LEARNING_RATE: Final = 5e-4
LATENT_NOISE: Final = 0.05
"""Noise on the latents, in units of their deviation: what the denoiser draws is never exactly an
encoded picture, and the decoder should forgive that."""
CHECKPOINT_STEPS: Final = 200


@torch.no_grad()
def _pool(pictures: Pictures, model: AutoencoderKL, rng: random.Random) -> tuple[Tensor, Tensor]:
    pixels = to_tensor([random_texture(pictures, rng) for _ in range(POOL_PICTURES)])
    with torch.autocast("cpu", torch.bfloat16):
        latents = [
            model.encode(to_signed(part)).latent_dist.mean.float()
            for part in torch.split(pixels, 100)
        ]
    return pixels, torch.cat(latents)


def train(pictures: Pictures, *, minutes: float, folder: Path, seed: int = 1) -> None:
    """Train for `minutes`, continuing from `folder/decoder.pt`, and rewrite `folder/vae/`."""
    model = AutoencoderKL.from_pretrained(folder / "vae")
    rng = random.Random(1000 * seed + parallel.rank())
    pixels, latents = _pool(pictures, model, rng)
    model.requires_grad_(False)
    parameters = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, PEAK_LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    clock = budget.Budget(minutes=minutes)
    if state := budget.load(folder / "decoder.pt"):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        clock.resume(state["clock"])
    torch.manual_seed(1000 * (seed + clock.step) + parallel.rank())
    noise = LATENT_NOISE / architecture.SCALING_FACTOR
    for now in clock.steps():
        rate = budget.learning_rate(PEAK_LEARNING_RATE, now, warmup_steps=50, hold=0.2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(0, len(pixels), (BATCH,))
        noisy = latents[chosen] + noise * torch.randn_like(latents[chosen])
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decode(noisy).sample.float()
        loss = reconstruction_loss(decoded, to_signed(pixels[chosen]))
        budget.clip_and_step(loss, parameters, optimizer)
        if parallel.rank() != 0:
            continue
        if now.step % 50 == 0:
            line = f"decoder step={now.step} minutes={now.minutes:.2f} lr={rate:.6f}"
            print(f"{line} loss={loss.item():.4f}", flush=True)
        if now.step % CHECKPOINT_STEPS == CHECKPOINT_STEPS - 1:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            budget.save(folder / "decoder.pt", {**state, "clock": clock.state()})
    if parallel.rank() == 0:
        model.save_pretrained(folder / "vae")
        unseen = [random_texture(pictures, random.Random(10**6 + i)) for i in range(256)]
        print(f"decoder done steps={clock.step} psnr_db={psnr(model, unseen):.2f}", flush=True)
