"""The saved file, read back the way its users will read it, against what was trained.

A module of its own because a LoRA that loads wrong is worse than none: it must be impossible to
publish one, whatever the saving code believed.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from lora_api.reasons import Reason
from lora_trainer.batch import collate
from lora_trainer.cache import Cache
from lora_trainer.dataset import Sample
from lora_trainer.errors import TrainerError
from lora_trainer.lora import RELOADED, TRAINED, Layer, activate, read_layers
from lora_trainer.recipes import LiveTexts, LossSettings, Recipe, TextEncoder

# Noise levels at which both adapters must predict the same.
_LEVELS = (0.1, 0.5, 0.9)
# Half-precision bases make the loader round the file's weights.
_HALF_TOLERANCE = 0.02
# A loader may multiply the scale into the weights (diffusers does for WAN): float32's rounding.
_TOLERANCE = 1e-4


def reload_and_compare(
    recipe: Recipe,
    denoiser: torch.nn.Module,
    path: Path,
    *,
    sample: Sample,
    cache: Cache,
    device: torch.device,
    text_encoder: TextEncoder | None = None,
) -> None:
    """Load the file through diffusers and compare weights and predictions; leave it active.

    Args:
        recipe: Knows the loader.
        denoiser: Carries the trained adapter; gets the file's beside it.
        path: The saved file.
        sample: A training sample to predict.
        cache: Its latents and embedding.
        device: Where to compute.
        text_encoder: Where it was trained too.

    Raises:
        TrainerError: ArtifactMismatch.
    """
    texts = text_encoder.modules() if text_encoder is not None else {}
    recipe.attach_file(denoiser, path, name=RELOADED, text_encoders=texts)
    models: Mapping[str, torch.nn.Module] = {"the denoiser": denoiser, **texts}
    tolerance = max(_compare(path, place, model) for place, model in models.items())
    losses = {}
    for adapter in (TRAINED, RELOADED):
        for model in models.values():
            activate(model, adapter)
        losses[adapter] = _predict(
            recipe, denoiser, sample, cache, device=device, text_encoder=text_encoder
        )
    same = (
        torch.equal(losses[TRAINED], losses[RELOADED])
        if tolerance == 0.0 and device.type == "cpu"
        else torch.allclose(losses[TRAINED], losses[RELOADED], rtol=max(tolerance, _TOLERANCE))
    )
    if not same:
        raise _mismatch(path, "the weights came back, but predict something else (a wrong alpha)")


def _compare(path: Path, place: str, model: torch.nn.Module) -> float:
    """How far what came back may be from what was trained: zero where it is the same bits."""
    trained, reloaded = read_layers(model, TRAINED), read_layers(model, RELOADED)
    if trained.keys() != reloaded.keys():
        raise _mismatch(
            path, f"{len(trained)} layers of {place} were trained, {len(reloaded)} came back"
        )
    tolerance = 0.0
    for name, layer in trained.items():
        allowed = _allowed(layer, reloaded[name])
        if allowed is None:
            raise _mismatch(path, f"{name} of {place} came back different")
        tolerance = max(tolerance, allowed)
    return tolerance


def _allowed(one: Layer, other: Layer) -> float | None:
    """Zero where two layers are the same bits, a tolerance where their effect is, else None."""
    kept = other.down.dtype == one.down.dtype
    same_bits = torch.equal(one.down.to(other.down.dtype), other.down) and torch.equal(
        one.up.to(other.up.dtype), other.up
    )
    if same_bits and one.scale == other.scale:
        return 0.0 if kept else _HALF_TOLERANCE
    tolerance = _TOLERANCE if kept else _HALF_TOLERANCE
    wanted, found = one.effect(), other.effect()
    near = wanted.shape == found.shape and torch.allclose(
        wanted, found, rtol=0.0, atol=tolerance * float(wanted.abs().max())
    )
    return tolerance if near else None


@torch.inference_mode()
def _predict(
    recipe: Recipe,
    denoiser: torch.nn.Module,
    sample: Sample,
    cache: Cache,
    *,
    device: torch.device,
    text_encoder: TextEncoder | None,
) -> torch.Tensor:
    count = len(_LEVELS)
    batch = collate(
        [sample] * count,
        [sample.caption] * count,
        cache,
        levels=torch.tensor(_LEVELS),
        device=device,
        texts=LiveTexts(text_encoder) if text_encoder is not None else None,
    )
    generator = torch.Generator().manual_seed(0)
    return recipe.losses(denoiser, batch, settings=LossSettings(), generator=generator)


def _mismatch(path: Path, what: str) -> TrainerError:
    return TrainerError(
        Reason.ARTIFACT_MISMATCH,
        f"{path.name}, read back through diffusers, is not what was trained: {what}; nothing was "
        "published. Run it again; if it happens again, report it with the log",
    )
