"""How much GPU memory a training needs, from its settings alone.

A module of its own because the operator places runs by it, long before anything that knows could
be asked. **Estimated, not measured on a GPU**: numbers of weights and the bytes that a step keeps
for its backward pass are those of the published architectures, counted without a GPU
(`python -m benchmarks.trainer.activations`); the rest are the formulas beside the figures. The
trainer itself finds out by a trial step what really fits.

    need = the largest of
        text encoders' weights
        picture encoder's weights + its widest activations
        base weights x bytes per weight + LoRA x bytes per trained weight + activations
    + what CUDA and its libraries hold
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lora_api.recipes import RECIPES
from lora_api.settings import (
    DatasetSettings,
    MemoryStrategy,
    NetworkSettings,
    OptimizationSettings,
    Optimizer,
    Precision,
)

_MIB = 1 << 20
# Context, library workspaces, fragmentation: an assumption.
_HELD_BYTES = 1536 * _MIB
# Three tensors of 128 channels in float32 at the full size of the picture, which is the widest
# place of these VAEs; the video VAE works on four frames at a time.
_VAE_BYTES_PER_PIXEL = 3 * 128 * 4
_VAE_FRAMES = 4
_VAE_WEIGHT_BYTES = 4 * 130_000_000
# The VAE's pixels per latent pixel, and frames per latent frame.
_PIXELS_PER_LATENT = 8 * 8
_FRAMES_PER_LATENT = 4
# Bytes of a trained weight: itself and its gradient in float32, and the optimiser's state.
_TRAINED_BYTES: Mapping[Optimizer, int] = {
    Optimizer.ADAMW: 4 + 4 + 8,
    Optimizer.ADAMW_8BIT: 4 + 4 + 2,
    Optimizer.PRODIGY: 4 + 4 + 16,
    Optimizer.ADAFACTOR: 4 + 4 + 4,
}
# Bytes of a frozen weight in half precision; fp8 and nf4 leave embeddings and norms as they are
# (about a twentieth), and keep a scale beside their weights.
_FROZEN_BYTES: Mapping[MemoryStrategy, float] = {
    MemoryStrategy.NONE: 2.0,
    MemoryStrategy.CHECKPOINTING: 2.0,
    MemoryStrategy.FP8: 0.95 * 1.0 + 0.05 * 2.0,
    MemoryStrategy.NF4: 0.95 * 0.5625 + 0.05 * 2.0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Figures of one published model."""

    weights: int
    """Of the denoiser; of several experts, of one."""

    lora_weights_per_rank: int
    """Of a LoRA of rank 1 on the attention projections."""

    kept_bytes: int
    """Kept for the backward pass per latent pixel and sample, in half precision."""

    checkpointed_bytes: int
    """The same with gradient checkpointing."""

    blocks: int
    """Blocks that are computed again one at a time with checkpointing."""

    text_bytes: int
    """Weights of the text encoders, in the precision that they run in."""


# Text encoders: CLIP in float32, those of T5's kind in bfloat16.
_CLIP_BYTES = 4 * 123_060_480
_SECOND_CLIP_BYTES = 4 * 694_659_840
_T5_BYTES = 2 * 4_762_310_656
_UMT5_BYTES = 2 * 5_680_910_336

ARCHITECTURES: Mapping[str, Architecture] = {
    "sd15": Architecture(
        weights=859_520_964,
        lora_weights_per_rank=199_296,
        kept_bytes=252_658,
        checkpointed_bytes=36_470,
        blocks=10,
        text_bytes=_CLIP_BYTES,
    ),
    "sdxl": Architecture(
        weights=2_567_463_684,
        lora_weights_per_rank=1_451_520,
        kept_bytes=473_655,
        checkpointed_bytes=29_780,
        blocks=10,
        text_bytes=_CLIP_BYTES + _SECOND_CLIP_BYTES,
    ),
    "flux": Architecture(
        weights=11_901_408_320,
        lora_weights_per_rank=1_167_360,
        kept_bytes=1_943_874,
        checkpointed_bytes=100_227,
        blocks=57,
        text_bytes=_T5_BYTES + _CLIP_BYTES,
    ),
    "wan-1.3B": Architecture(
        weights=1_418_996_800,
        lora_weights_per_rank=737_280,
        kept_bytes=847_262,
        checkpointed_bytes=24_667,
        blocks=30,
        text_bytes=_UMT5_BYTES,
    ),
    "wan-14B": Architecture(
        weights=14_288_491_584,
        lora_weights_per_rank=3_276_800,
        kept_bytes=3_442_883,
        checkpointed_bytes=107_817,
        blocks=40,
        text_bytes=_UMT5_BYTES,
    ),
}
# What is placed by too much waits longer; what is placed by too little fails after its start.
_LARGEST = {"wan": "wan-14B"}


def gpu_memory_mib(
    recipe: str,
    *,
    dataset: DatasetSettings,
    network: NetworkSettings,
    optimization: OptimizationSettings,
    architecture: str | None = None,
) -> int:
    """Memory that a training needs on each GPU, in MiB; an estimate (see the module).

    `optimization.memory: auto` counts as checkpointing, which costs time but no precision; what it
    can be squeezed into is what fp8 or nf4 need.

    Args:
        recipe: A key of `RECIPES`.
        dataset: As in the job or the resource.
        network: Likewise.
        optimization: Likewise.
        architecture: A key of `ARCHITECTURES`; the recipe's largest where nobody knows better.
    """
    facts = ARCHITECTURES[architecture or _LARGEST.get(recipe, recipe)]
    defaults = RECIPES[recipe]
    pixels = (optimization.resolution or defaults.resolution) ** 2
    frames = dataset.frames or defaults.frames
    strategy = optimization.memory
    if strategy is MemoryStrategy.AUTO:
        strategy = MemoryStrategy.CHECKPOINTING
    width = 2 if optimization.precision is Precision.FP32 else 1
    latents = pixels / _PIXELS_PER_LATENT * (1 + (frames - 1) / _FRAMES_PER_LATENT)
    per_latent: float = facts.kept_bytes
    if strategy is not MemoryStrategy.NONE:
        per_latent = facts.checkpointed_bytes + facts.kept_bytes / facts.blocks
    trained = facts.lora_weights_per_rank * (network.rank or defaults.rank)
    training = (
        facts.weights * _FROZEN_BYTES[strategy] * width
        + trained * _TRAINED_BYTES[optimization.optimizer]
        + per_latent * latents * optimization.batch_size * width
    )
    if network.text_encoder:
        training += facts.text_bytes
    widest = _VAE_BYTES_PER_PIXEL * pixels * min(frames, _VAE_FRAMES)
    need = max(training, facts.text_bytes, _VAE_WEIGHT_BYTES + widest)
    return int((need + _HELD_BYTES) // _MIB) + 1
