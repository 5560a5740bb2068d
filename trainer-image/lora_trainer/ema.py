"""A moving average of the trained weights, which is what the file gets where a job asks for it.

A module of its own because it is kept beside the weights through refused updates, checkpoints and
samples, and none of these should know its arithmetic.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class MovingAverage:
    """Exponential moving average of parameters, on their device.

    Early on it follows faster: the decay of update n is at most (1 + n) / (10 + n), so that the
    random start does not stay in the average (the warm-up of TensorFlow's
    ExponentialMovingAverage with num_updates, which diffusers uses too).

    Args:
        parameters: What is averaged; the average begins with their present values.
        decay: Of the past at each update, e.g. 0.999.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], *, decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._average = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, step: int, *, refused: torch.Tensor) -> None:
        """Move towards the parameters; nothing moves where the update was refused.

        Args:
            step: Number of the step, from 0.
            refused: A single float32 on the parameters' device, 0 or 1.
        """
        share = (1.0 - refused) * (1.0 - min(self._decay, (1 + step) / (10 + step)))
        average = list(self._average.values())
        ahead = torch._foreach_sub(list(self._parameters.values()), average)
        torch._foreach_mul_(ahead, share)
        torch._foreach_add_(average, ahead)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters have the average's values, then their own again."""
        own = {name: value.detach().clone() for name, value in self._parameters.items()}
        self.apply()
        try:
            yield
        finally:
            self._write(own)

    def apply(self) -> None:
        """Give the parameters the average's values for good."""
        self._write(self._average)

    def state(self) -> dict[str, torch.Tensor]:
        """The average on the CPU, for a checkpoint."""
        return {name: value.cpu() for name, value in self._average.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on with a checkpoint's average."""
        for name, value in self._average.items():
            value.copy_(state[name])

    @torch.no_grad()
    def _write(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
