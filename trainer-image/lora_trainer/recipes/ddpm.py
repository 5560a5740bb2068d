"""The loss of families that predict noise or velocity: sd15 and sdxl.

A module of its own because noise levels, min-SNR weights and noise offset are the same for both;
what the UNet is told beside the latents is not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler

from lora_trainer.recipes import LossSettings
from lora_trainer.transfer import sent

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Noisy latents and time steps to the model's prediction."""
PREDICTIONS = frozenset({"epsilon", "v_prediction"})


class NoisePrediction:
    """Noise levels of a scheduler's config.

    Args:
        config: Of the base model's scheduler.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._schedule: Any = DDPMScheduler.from_config(dict(config))
        self._levels = int(self._schedule.config.num_train_timesteps)
        self._velocity = self._schedule.config.prediction_type == "v_prediction"

    def losses(
        self,
        predict: Predict,
        latents: torch.Tensor,
        levels: torch.Tensor,
        *,
        settings: LossSettings,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Mean squared error of the predicted noise (or velocity) of each sample.

        Args:
            predict: Asks the model.
            latents: [batch, channels, h, w], scaled.
            levels: [batch] in 0..1.
            settings: min-SNR and noise offset.
            generator: On the CPU.
        """
        device = latents.device
        noise = torch.randn(latents.shape, generator=generator)
        if settings.noise_offset:
            # "Diffusion With Offset Noise" (N. Guttenberg, 2023): a shift of whole channels.
            shift = torch.randn((*latents.shape[:2], 1, 1), generator=generator)
            noise = noise + settings.noise_offset * shift
        noise = sent(noise, device)
        steps = sent((levels * self._levels).long().clamp_(0, self._levels - 1), device)
        noisy = self._schedule.add_noise(latents, noise, steps)
        target = self._schedule.get_velocity(latents, noise, steps) if self._velocity else noise
        squares = (predict(noisy, steps).float() - target).pow(2)
        losses: torch.Tensor = squares.mean(dim=(1, 2, 3))
        if settings.min_snr_gamma is not None:
            losses = losses * self.min_snr_weights(steps, settings.min_snr_gamma)
        return losses

    def min_snr_weights(self, steps: torch.Tensor, gamma: float) -> torch.Tensor:
        """Weights of the time steps, after Hang et al. 2023 (arXiv:2303.09556).

        min(SNR, gamma) / SNR where noise is predicted, / (SNR + 1) where velocity is.

        Args:
            steps: [batch] time steps.
            gamma: Signal-to-noise ratio from which on levels are weighed less.
        """
        cumulative = self._schedule.alphas_cumprod.to(steps.device)[steps].double()
        ratio: torch.Tensor = (cumulative / (1.0 - cumulative)).clamp(min=1e-8)
        weights = ratio.clamp(max=gamma) / (ratio + 1.0 if self._velocity else ratio)
        return weights.float()
