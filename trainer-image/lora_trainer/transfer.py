"""Small tensors from the host to the device, without the host waiting for the device.

A module of its own because it is easy to get wrong: a plain copy from ordinary memory waits until
the device has done all it was given before, so one such copy in a step undoes the care that the
rest of the loop takes. Noise is drawn on the CPU so that every device gets the same.
"""

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device.

    Args:
        tensor: On the CPU.
        device: Where it is wanted; the copy is queued there behind earlier work.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
