"""Train the denoiser and the text encoder together, in the finished autoencoder's latents.

The training scenes are encoded once and kept in memory, so that a step costs only the denoiser.
"""

# ruff: noqa: S311  # random pictures, not secrets

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from smallbase import architecture, budget, export, parallel
from smallbase.pictures import Pictures
from smallbase.scenes import GRID_PIXELS, Scene, random_scene
from smallbase.vae import to_signed, to_tensor

BATCH: Final = 16
"""Latents per process and step."""
PEAK_LEARNING_RATE: Final = 7e-4
CACHE_SCENES: Final = 4000
"""Scenes drawn and encoded per process."""
EMPTY_CAPTION_SHARE: Final = 0.1
"""Share of steps without a caption, which is what classifier-free guidance needs."""
SNR_LIMIT: Final = 5.0
SPRITE_WEIGHT: Final = 2.0
"""Errors inside the sprite's square count this much more: the plain places are learnt long before
the faces are."""
AVERAGE_DECAY: Final = 0.998
CHECKPOINT_STEPS: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """What a process trains on; all tensors have the same first dimension."""

    latents: Tensor
    """[scenes, 4, 16, 16], scaled to deviation 1."""
    tokens: Tensor
    """[scenes, MAX_TOKENS]"""
    weights: Tensor
    """[scenes, 1, 16, 16], mean 1 per scene."""


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Return padded token numbers [prompts, MAX_TOKENS]."""
    ids: Tensor = tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids


def _weights(scene: Scene, edge: int) -> Tensor:
    left, top, right, bottom = (side // GRID_PIXELS for side in scene.box)
    weights = torch.ones(1, edge, edge)
    weights[:, top:bottom, left:right] = SPRITE_WEIGHT
    return weights / weights.mean()


@torch.no_grad()
def _fill_cache(
    pictures: Pictures, vae: AutoencoderKL, tokenizer: CLIPTokenizer, rng: random.Random
) -> Cache:
    latents, captions, weights = [], [], []
    for _ in range(CACHE_SCENES // 100):
        scenes = [random_scene(pictures, rng) for _ in range(100)]
        pixels = to_signed(to_tensor([scene.image for scene in scenes]))
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(pixels).latent_dist.mean.float())
        captions += [scene.caption for scene in scenes]
        weights += [_weights(scene, latents[0].shape[-1]) for scene in scenes]
    return Cache(
        latents=torch.cat(latents) * architecture.SCALING_FACTOR,
        tokens=tokenize(tokenizer, captions),
        weights=torch.stack(weights),
    )


@dataclass(kw_only=True)
class Learner:
    """The two models that learn, with what a checkpoint has to hold."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    optimizer: torch.optim.Optimizer
    average: budget.Average
    parameters: list[nn.Parameter]

    @classmethod
    def new(cls, tokenizer: CLIPTokenizer) -> "Learner":
        """Build untrained models and their optimizer."""
        unet = architecture.denoiser()
        # Plain attention: the fused kernel's backward pass is slow on a CPU at these sizes and
        # made a step take 1.6 times as long.
        unet.set_attn_processor(AttnProcessor())
        text_encoder = architecture.text_encoder(tokenizer)
        parameters = [*unet.parameters(), *text_encoder.parameters()]
        optimizer = torch.optim.AdamW(
            parameters, PEAK_LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
        )
        average = budget.Average(parameters, AVERAGE_DECAY)
        return cls(
            unet=unet,
            text_encoder=text_encoder,
            optimizer=optimizer,
            average=average,
            parameters=parameters,
        )

    def state(self) -> dict[str, Any]:
        """Return everything that `resume` needs but the clock."""
        return {
            "unet": self.unet.state_dict(),
            "text_encoder": self.text_encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.unet.load_state_dict(state["unet"])
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = state["average"]


class Objective:
    """Predict the noise, weighted by signal-to-noise ratio and by where the sprite is."""

    def __init__(self, empty_tokens: Tensor) -> None:
        self._scheduler = architecture.training_scheduler()
        signal = self._scheduler.alphas_cumprod
        ratio = signal / (1 - signal)
        self._weights = ratio.clamp(max=SNR_LIMIT) / ratio
        self._empty = empty_tokens

    def __call__(self, learner: Learner, cache: Cache) -> tuple[Tensor, float]:
        """Return the loss of a random batch, and its plain mean squared error."""
        chosen = torch.randint(0, len(cache.latents), (BATCH,))
        latents, tokens = cache.latents[chosen], cache.tokens[chosen]
        tokens[torch.rand(BATCH) < EMPTY_CAPTION_SHARE] = self._empty
        times = torch.randint(0, len(self._weights), (BATCH,))
        noise = torch.randn_like(latents)
        noisy = self._scheduler.add_noise(latents, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            text = learner.text_encoder(tokens)[0]
            predicted = learner.unet(noisy, times, text).sample
        error = (predicted.float() - noise).pow(2)
        per_picture = (error * cache.weights[chosen]).mean((1, 2, 3))
        return (per_picture * self._weights[times]).mean(), error.mean().item()


def train(pictures: Pictures, *, minutes: float, folder: Path, seed: int = 0) -> None:
    """Train for `minutes`, continuing from `folder/unet.pt`; `export_checkpoint` reads that."""
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    rng = random.Random(1000 * seed + parallel.rank())
    cache = _fill_cache(pictures, vae, tokenizer, rng)
    torch.manual_seed(seed)  # the same first weights in every process
    learner = Learner.new(tokenizer)
    clock = budget.Budget(minutes=minutes)
    if state := budget.load(folder / "unet.pt"):
        learner.resume(state)
        clock.resume(state["clock"])
    torch.manual_seed(1000 * (seed + clock.step + 1) + parallel.rank())
    objective = Objective(tokenize(tokenizer, [""])[0])
    errors: list[float] = []
    for now in clock.steps():
        rate = budget.learning_rate(PEAK_LEARNING_RATE, now, warmup_steps=200, hold=0.3)
        for group in learner.optimizer.param_groups:
            group["lr"] = rate
        loss, error = objective(learner, cache)
        budget.clip_and_step(loss, learner.parameters, learner.optimizer)
        learner.average.update(now.step)
        errors.append(error)
        if now.step % 50 == 0 and parallel.rank() == 0:
            line = f"unet step={now.step} minutes={now.minutes:.2f} lr={rate:.6f}"
            print(f"{line} mse={sum(errors) / len(errors):.4f}", flush=True)
            errors.clear()
        if now.step % CHECKPOINT_STEPS == CHECKPOINT_STEPS - 1 and parallel.rank() == 0:
            budget.save(folder / "unet.pt", {**learner.state(), "clock": clock.state()})
    if parallel.rank() == 0:
        budget.save(folder / "unet.pt", {**learner.state(), "clock": clock.state()})
        print(f"unet done steps={clock.step}", flush=True)


def export_checkpoint(folder: Path, target: Path) -> None:
    """Write the averaged weights of `folder/unet.pt` as a diffusers model; works while training.

    Raises:
        FileNotFoundError: there is no checkpoint yet.
    """
    state = budget.load(folder / "unet.pt")
    if state is None:
        raise FileNotFoundError(f"no checkpoint in {folder}; run the `unet` step first")
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    learner = Learner.new(tokenizer)
    learner.resume(state)
    learner.average.swap()
    export.add_trigger_words(tokenizer, learner.text_encoder)
    export.write(
        target,
        tokenizer=tokenizer,
        text_encoder=learner.text_encoder,
        unet=learner.unet,
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
    )
