"""Flow matching: the noise levels and the loss of flux and wan.

A module of its own because a level's meaning, its shift and what the model must predict are the
same for both; how a model is asked is not.
"""

from collections.abc import Callable

import torch

from lora_trainer.transfer import sent

# Both ends of the scale carry nothing to learn, and the normal distribution has none.
_EDGE = 1e-5


def sigmas_at(levels: torch.Tensor, *, shift: float) -> torch.Tensor:
    """Share of noise at evenly distributed levels: logit-normal, then shifted.

    Logit-normal after Esser et al. 2024 (arXiv:2403.03206, section 3.1), the shift after its
    section 5.3.2: sigma' = shift * sigma / (1 + (shift - 1) * sigma). sd-scripts calls the two
    together `--timestep_sampling shift`.

    Args:
        levels: [batch] in 0..1.
        shift: Above 1 moves towards noise.
    """
    normal: torch.Tensor = torch.special.ndtri(levels.double().clamp(_EDGE, 1.0 - _EDGE))
    plain = normal.sigmoid()
    return (shift * plain / (1.0 + (shift - 1.0) * plain)).float()


def level_at(sigma: float, *, shift: float) -> float:
    """The level whose share of noise is sigma; the inverse of `sigmas_at`.

    Args:
        sigma: In 0..1, without the ends.
        shift: As for `sigmas_at`.
    """
    plain = torch.tensor(sigma / (shift - (shift - 1.0) * sigma), dtype=torch.float64)
    return float(torch.special.ndtr(plain.logit()))


def flow_losses(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity, noise - latents, of each sample.

    Args:
        predict: Noisy latents and [batch] sigmas to the model's prediction.
        latents: [batch, channels, ...], normalised.
        sigmas: [batch] in 0..1.
        generator: On the CPU.

    Returns:
        [batch], float32.
    """
    noise = sent(torch.randn(latents.shape, generator=generator), latents.device)
    sigmas = sent(sigmas, latents.device)
    share = sigmas.view(-1, *[1] * (latents.dim() - 1))
    noisy = (1.0 - share) * latents + share * noise
    squares = (predict(noisy, sigmas).float() - (noise - latents)).pow(2)
    losses: torch.Tensor = squares.flatten(1).mean(dim=1)
    return losses
