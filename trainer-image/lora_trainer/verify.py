"""The saved file, read back the way its users will read it, against what was trained.

A module of its own because a LoRA that loads wrong is worse than none: it must be impossible to
publish one, whatever the saving code believed.
"""

from pathlib import Path

import torch

from lora_api.reasons import Reason
from lora_trainer.batch import collate
from lora_trainer.cache import Cache
from lora_trainer.dataset import Sample
from lora_trainer.errors import TrainerError
from lora_trainer.lora import RELOADED, TRAINED, activate, read_weights
from lora_trainer.recipes import LossSettings, Recipe

# Noise levels at which both adapters must predict the same.
_LEVELS = (0.1, 0.5, 0.9)
# Half-precision bases make the loader round the file's weights; float32 must be exact.
_HALF_TOLERANCE = 0.02


def reload_and_compare(
    recipe: Recipe,
    denoiser: torch.nn.Module,
    path: Path,
    *,
    sample: Sample,
    cache: Cache,
    device: torch.device,
) -> None:
    """Load the file through diffusers and compare weights and predictions; leave it active.

    Args:
        recipe: Knows the loader.
        denoiser: Carries the trained adapter; gets the file's beside it.
        path: The saved file.
        sample: A training sample to predict.
        cache: Its latents and embedding.
        device: Where to compute.

    Raises:
        TrainerError: ArtifactMismatch.
    """
    recipe.attach_file(denoiser, path, name=RELOADED)
    trained, reloaded = read_weights(denoiser, TRAINED), read_weights(denoiser, RELOADED)
    if trained.keys() != reloaded.keys():
        raise _mismatch(path, f"{len(trained)} matrices were trained, {len(reloaded)} came back")
    exact = True
    for name, weight in trained.items():
        exact = exact and reloaded[name].dtype == weight.dtype
        if not torch.equal(weight.to(reloaded[name].dtype), reloaded[name]):
            raise _mismatch(path, f"{name} came back different")
    losses = {}
    for adapter in (TRAINED, RELOADED):
        activate(denoiser, adapter)
        losses[adapter] = _predict(recipe, denoiser, sample, cache, device)
    same = (
        torch.equal(losses[TRAINED], losses[RELOADED])
        if exact and device.type == "cpu"
        else torch.allclose(losses[TRAINED], losses[RELOADED], rtol=_HALF_TOLERANCE)
    )
    if not same:
        raise _mismatch(path, "the weights came back, but predict something else (a wrong alpha)")


@torch.inference_mode()
def _predict(
    recipe: Recipe,
    denoiser: torch.nn.Module,
    sample: Sample,
    cache: Cache,
    device: torch.device,
) -> torch.Tensor:
    count = len(_LEVELS)
    batch = collate(
        [sample] * count,
        [sample.caption] * count,
        cache,
        levels=torch.tensor(_LEVELS),
        device=device,
    )
    generator = torch.Generator().manual_seed(0)
    return recipe.losses(denoiser, batch, settings=LossSettings(), generator=generator)


def _mismatch(path: Path, what: str) -> TrainerError:
    return TrainerError(
        Reason.ARTIFACT_MISMATCH,
        f"{path.name}, read back through diffusers, is not what was trained: {what}; nothing was "
        "published. Run it again; if it happens again, report it with the log",
    )
