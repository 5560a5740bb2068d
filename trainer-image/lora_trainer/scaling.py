"""Loss scaling for fp16, whose smallest number is too large for many gradients.

A module of its own because only one precision needs it. torch.amp.GradScaler, which accelerate
uses, does the same, but reads `found_inf` on the host at every step to know whether to apply the
update; here the answer stays on the device, beside the check for finite numbers.
"""

import torch

# The course that torch.amp.GradScaler has by default.
_START = 65536.0
_GROW_AFTER_STEPS = 2000
_LARGEST = 2.0**24


class LossScale:
    """A power of two that the loss is multiplied by, and the gradients divided by.

    It halves when gradients overflow and doubles after many steps without an overflow.

    Args:
        device: Where the gradients are.
    """

    def __init__(self, device: torch.device) -> None:
        self._scale = torch.full((), _START, device=device)
        self._calm = torch.zeros((), device=device)

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to compute gradients from."""
        return loss * self._scale

    def unscale(self, gradients: list[torch.Tensor]) -> None:
        """Divide gradients in place."""
        torch._foreach_mul_(gradients, 1.0 / self._scale)

    def update(self, overflow: torch.Tensor) -> torch.Tensor:
        """Learn from one step.

        Args:
            overflow: Whether its gradients were not finite, as bool on the device.

        Returns:
            Whether a smaller scale can help, as bool on the device: an overflow at scale 1 is a
            fault of the numbers, not of the scale.
        """
        curable = overflow & (self._scale > 1.0)
        self._calm = torch.where(overflow, 0.0, self._calm + 1.0)
        grown = self._calm >= _GROW_AFTER_STEPS
        self._calm = torch.where(grown, 0.0, self._calm)
        factor = torch.where(overflow, 0.5, torch.where(grown, 2.0, 1.0))
        self._scale = (self._scale * factor).clamp(1.0, _LARGEST)
        return curable

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"scale": float(self._scale), "calm": float(self._calm)}

    def restore(self, state: dict[str, float]) -> None:
        """Go on with a checkpoint's scale."""
        self._scale.fill_(state["scale"])
        self._calm.fill_(state["calm"])
