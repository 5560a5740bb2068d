"""Whether and how the denoiser's repeated blocks are compiled.

A module of its own because compiling is a bet: it costs time at once and pays back step by step.
What the peers publish, per step: 25 to 35 % less time (OneTrainer), 10 to 25 % (musubi-tuner),
with the break-even between 200 and 1,400 steps. The constants below are the cautious end of that;
they were not measured here, where there is no GPU.
"""

import shutil
from typing import Any

import torch

from lora_api.reasons import Reason
from lora_api.settings import Switch
from lora_trainer import log
from lora_trainer.errors import TrainerError

# Share of a step's time that compiled blocks save.
_SAVED_SHARE = 0.15
# Seconds that compiling takes, for the first shape and for each further one.
_FIRST_SHAPE_SECONDS = 90.0
_FURTHER_SHAPE_SECONDS = 30.0


def check_compile(switch: Switch) -> None:
    """Refuse what can't be compiled here.

    Raises:
        TrainerError: InvalidJob with the cure.
    """
    if switch is Switch.ALWAYS and not has_compiler():
        raise TrainerError(
            Reason.INVALID_JOB,
            "optimization.compile: always needs a C compiler, and none is installed here; use "
            "auto or never, or an image with gcc",
        )


def has_compiler() -> bool:
    """Whether the compiler's own output can be compiled."""
    return any(shutil.which(name) for name in ("cc", "gcc", "clang"))


def pays(*, steps: int, step_seconds: float, shapes: int) -> bool:
    """Whether a run is long enough to win back the time that compiling takes.

    Args:
        steps: Steps that are left.
        step_seconds: Of one step without compiling.
        shapes: Different shapes of batches.
    """
    cost = _FIRST_SHAPE_SECONDS + _FURTHER_SHAPE_SECONDS * (shapes - 1)
    return steps * step_seconds * _SAVED_SHARE > cost


def compile_blocks(denoiser: torch.nn.Module) -> bool:
    """Compile the blocks at their next call; returns whether the model has any."""
    if not getattr(denoiser, "_repeated_blocks", None):
        log.info("not compiled", why="the model names no repeated blocks")
        return False
    model: Any = denoiser
    model.compile_repeated_blocks()
    return True


def forget_compiled(denoiser: torch.nn.Module) -> None:
    """Let the blocks run as they are again: after training, drawing would compile them anew."""
    for module in denoiser.modules():
        plain: Any = module
        plain._compiled_call_impl = None
