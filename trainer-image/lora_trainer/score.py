"""How much better the LoRA predicts pictures that it never saw, than the base model does.

A module of its own because the figure is only worth something if both sides get the very same
noise, which must not depend on anything that training does.
"""

import torch

from lora_api.base import MAX_LOSS
from lora_api.reasons import Reason
from lora_api.status import ValidationStatus
from lora_trainer.batch import collate
from lora_trainer.cache import Cache
from lora_trainer.dataset import Sample
from lora_trainer.errors import TrainerError
from lora_trainer.lora import base_only
from lora_trainer.progress import is_loss
from lora_trainer.recipes import LossSettings, Recipe
from lora_trainer.schedule import seed_for
from lora_trainer.stopping import StopFlag

# Noise levels per picture, evenly spaced: enough that the mean varies little with the seed; the
# batch divides it.
_LEVELS_PER_PICTURE = 20
_BATCH = 4


def held_out_score(
    recipe: Recipe,
    denoiser: torch.nn.Module,
    held_out: list[Sample],
    cache: Cache,
    *,
    device: torch.device,
    stop: StopFlag,
) -> ValidationStatus:
    """The held-out denoising loss of base and base + LoRA.

    Args:
        recipe: Knows the family's loss.
        denoiser: Has the LoRA active.
        held_out: Pictures kept out of training; none gives a score without losses.
        cache: Their latents and embeddings.
        device: Where to compute.
        stop: A stop ends it between two batches.

    Raises:
        TrainerError: TrainingDiverged or BaseModelInvalid; a loss is not finite or out of bounds.
    """
    if not held_out:
        return ValidationStatus(held_out_images=0)

    def mean_loss() -> float:
        losses = []
        for index, sample in enumerate(held_out):
            stop.check("measuring the held-out loss")
            losses.append(_loss(recipe, denoiser, sample, cache, device=device, index=index))
        return sum(losses) / len(losses)

    lora = mean_loss()
    with base_only(denoiser):
        base = mean_loss()
    if not is_loss(lora):
        raise TrainerError(
            Reason.TRAINING_DIVERGED,
            f"the LoRA predicts nonsense of the held-out pictures (loss {lora:g}); nothing was "
            "published. Lower optimization.learningRate",
        )
    if not is_loss(base):
        raise TrainerError(
            Reason.BASE_MODEL_INVALID,
            f"baseModel.uri: the base model predicts nonsense of the held-out pictures (loss "
            f"{base:g}); use another one, or optimization.precision fp32",
        )
    improvement = round(100.0 * (base - lora) / base, 2) if base else 0.0
    return ValidationStatus(
        base_loss=round(base, 6),
        lora_loss=round(lora, 6),
        improvement_percent=max(-MAX_LOSS, improvement),
        held_out_images=len(held_out),
    )


@torch.inference_mode()
def _loss(
    recipe: Recipe,
    denoiser: torch.nn.Module,
    sample: Sample,
    cache: Cache,
    *,
    device: torch.device,
    index: int,
) -> float:
    """Mean over the noise levels; the noise depends on nothing but the picture's place."""
    generator = torch.Generator().manual_seed(seed_for(0, "held-out", index))
    total = 0.0
    for first in range(0, _LEVELS_PER_PICTURE, _BATCH):
        levels = (torch.arange(first, first + _BATCH) + 0.5) / _LEVELS_PER_PICTURE
        batch = collate(
            [sample] * _BATCH, [sample.caption] * _BATCH, cache, levels=levels, device=device
        )
        losses = recipe.losses(denoiser, batch, settings=LossSettings(), generator=generator)
        total += float(losses.sum())
    return total / _LEVELS_PER_PICTURE
