"""How much better the LoRA predicts pictures that it never saw, than the base model does.

A module of its own because the figure is only worth something if both sides get the very same
noise, which must not depend on anything that training does.
"""

from collections.abc import Sequence

import torch

from lora_api.base import MAX_LOSS
from lora_api.reasons import Reason
from lora_api.status import ValidationStatus
from lora_trainer.batch import collate
from lora_trainer.cache import Cache
from lora_trainer.dataset import Sample
from lora_trainer.errors import TrainerError
from lora_trainer.lora import Adapted, base_only
from lora_trainer.progress import Advance, is_loss
from lora_trainer.recipes import LiveTexts, LossSettings, Recipe, TextEncoder, TextSource
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
    advance: Advance,
    text_encoder: TextEncoder | None = None,
) -> ValidationStatus:
    """The held-out denoising loss of base and base + LoRA.

    Args:
        recipe: Knows the family's loss.
        denoiser: Has the LoRA active.
        held_out: Pictures kept out of training; none gives a score without losses.
        cache: Their latents and embeddings.
        device: Where to compute.
        stop: A stop ends it between two pictures.
        advance: Told of every picture.
        text_encoder: Has its LoRA active, where it was trained too.

    Raises:
        TrainerError: TrainingDiverged or BaseModelInvalid; a loss is not finite or out of bounds.
    """
    if not held_out:
        return ValidationStatus(held_out_images=0)

    texts: TextSource = cache if text_encoder is None else LiveTexts(text_encoder)
    adapted = Adapted([denoiser, *(text_encoder.modules().values() if text_encoder else ())])

    def mean_loss(before: int) -> float:
        losses = []
        for index, sample in enumerate(held_out):
            stop.check("measuring the held-out loss")
            loss = _loss(recipe, denoiser, sample, cache, texts=texts, device=device, index=index)
            losses.append(loss)
            advance(before + len(losses), 2 * len(held_out))
        return sum(losses) / len(losses)

    lora = mean_loss(0)
    with base_only(adapted):
        base = mean_loss(len(held_out))
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
    return _status(base, lora, len(held_out))


def mean_score(scores: Sequence[ValidationStatus]) -> ValidationStatus:
    """One score of several experts, each of which predicts its own share of the noise levels.

    Args:
        scores: At least one.
    """
    base = [score.base_loss for score in scores if score.base_loss is not None]
    lora = [score.lora_loss for score in scores if score.lora_loss is not None]
    if len(scores) == 1 or len(base) < len(scores) or len(lora) < len(scores):
        return scores[0]
    return _status(sum(base) / len(base), sum(lora) / len(lora), scores[0].held_out_images)


def _status(base: float, lora: float, images: int) -> ValidationStatus:
    improvement = round(100.0 * (base - lora) / base, 2) if base else 0.0
    return ValidationStatus(
        base_loss=round(base, 6),
        lora_loss=round(lora, 6),
        improvement_percent=max(-MAX_LOSS, improvement),
        held_out_images=images,
    )


@torch.inference_mode()
def _loss(
    recipe: Recipe,
    denoiser: torch.nn.Module,
    sample: Sample,
    cache: Cache,
    *,
    texts: TextSource,
    device: torch.device,
    index: int,
) -> float:
    """Mean over the noise levels; the noise depends on nothing but the picture's place."""
    generator = torch.Generator().manual_seed(seed_for(0, "held-out", index))
    total = 0.0
    for first in range(0, _LEVELS_PER_PICTURE, _BATCH):
        levels = (torch.arange(first, first + _BATCH) + 0.5) / _LEVELS_PER_PICTURE
        batch = collate(
            [sample] * _BATCH,
            [sample.caption] * _BATCH,
            cache,
            levels=levels,
            device=device,
            texts=texts,
        )
        losses = recipe.losses(denoiser, batch, settings=LossSettings(), generator=generator)
        total += float(losses.sum())
    return total / _LEVELS_PER_PICTURE
