"""The optimisers that a job may name, through the libraries that keep them well.

A module of its own because each comes from another library with other habits; here they are made
alike: decoupled weight decay, a rate that the loop sets at every step, and a refusal before
training of what this machine can't do.

How an update that must not happen is left out differs too. PyTorch's fused AdamW looks at a flag
on the device itself (`found_inf`, the mechanism of its loss scaling), so the host need not wait
for the answer. The others have no such thing: for them the host reads the flag before each update.
"""

import contextlib
import importlib.util
import io
from collections.abc import Iterable
from typing import Any

import torch

from lora_api.reasons import Reason
from lora_api.settings import Optimizer
from lora_trainer.errors import TrainerError

# Library of each optimiser that is not PyTorch's own.
_LIBRARIES = {
    Optimizer.ADAMW_8BIT: "bitsandbytes",
    Optimizer.PRODIGY: "prodigyopt",
    Optimizer.ADAFACTOR: "transformers",
}


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse an optimiser whose library is not here.

    Raises:
        TrainerError: InvalidJob with the cure.
    """
    library = _LIBRARIES.get(optimizer)
    if library is not None and importlib.util.find_spec(library) is None:
        raise TrainerError(
            Reason.INVALID_JOB,
            f"optimization.optimizer: {optimizer.value} needs the Python package {library}, which "
            "is not installed here; use adamw, or install it",
        )


def make_optimizer(
    optimizer: Optimizer,
    parameters: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimiser for some parameters.

    Args:
        optimizer: Which one.
        parameters: What it updates.
        learning_rate: Highest learning rate; for prodigy a factor on what it finds.
        weight_decay: Decoupled weight decay.
    """
    trained = list(parameters)
    if optimizer is Optimizer.ADAMW:
        return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=True)
    made: Any
    if optimizer is Optimizer.ADAMW_8BIT:
        from bitsandbytes.optim import AdamW8bit

        made = AdamW8bit(trained, lr=learning_rate, weight_decay=weight_decay)
    elif optimizer is Optimizer.PRODIGY:
        from prodigyopt import Prodigy

        with contextlib.redirect_stdout(io.StringIO()):  # it tells its settings there
            # What its authors use for diffusion models.
            made = Prodigy(
                trained,
                lr=learning_rate,
                weight_decay=weight_decay,
                decouple=True,
                use_bias_correction=True,
                safeguard_warmup=True,
            )
    else:
        from transformers.optimization import Adafactor

        # Steps relative to the weights' size would never leave zero, where a LoRA's up-matrices
        # begin: the rate is the job's.
        made = Adafactor(
            trained,
            lr=learning_rate,
            weight_decay=weight_decay,
            scale_parameter=False,
            relative_step=False,
            warmup_init=False,
        )
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"{type(made)} is no optimiser")
    return made


def step_unless(optimizer: torch.optim.Optimizer, refused: torch.Tensor) -> None:
    """Update the weights; where `refused` is 1, neither they nor the optimiser's state change.

    Args:
        optimizer: Its gradients are ready.
        refused: A single float32 on the parameters' device, 0 or 1.
    """
    if isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults.get("fused"):
        gated: Any = optimizer
        gated.found_inf = refused
        optimizer.step()
    elif not bool(refused):
        optimizer.step()
