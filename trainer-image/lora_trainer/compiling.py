"""Whether and how the denoiser's repeated blocks are compiled.

A module of its own because compiling is a bet: it costs time at once and pays back step by step.
What the peers publish, per step: 25 to 35 % less time (OneTrainer), 10 to 25 % (musubi-tuner),
with the break-even between 200 and 1,400 steps. The constants below are the cautious end of that;
they were not measured here, where there is no GPU.
"""

import shutil
import time
from collections.abc import Callable
from typing import Any

import torch

from lora_api.reasons import Reason
from lora_api.settings import Switch
from lora_trainer import log
from lora_trainer.errors import TrainerError, is_out_of_memory
from lora_trainer.group import Group

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


def agreed_to_compile(
    switch: Switch, group: Group, *, steps: int, step_seconds: float | None, shapes: int
) -> bool:
    """Whether all processes compile; the first one decides where that depends on its clock.

    Args:
        switch: What the job says.
        group: The processes, all of which must ask.
        steps: Steps that are left.
        step_seconds: Of one step without compiling; None where it was not measured.
        shapes: Different shapes of batches.
    """
    if switch is not Switch.AUTO:
        return switch is Switch.ALWAYS
    worth = (
        step_seconds is not None
        and has_compiler()
        and pays(steps=steps, step_seconds=step_seconds, shapes=shapes)
    )
    return group.anyone(group.leads and worth)


def compile_now(
    denoiser: torch.nn.Module, try_shapes: Callable[[], object], *, switch: Switch
) -> None:
    """Compile for every shape now, so that no step of the run waits for it; or leave it.

    Args:
        denoiser: The model with its adapter.
        try_shapes: Runs every shape; fails in all processes where it fails in one.
        switch: What the job says.

    Raises:
        TrainerError: InvalidJob; the job insists, and it can't be done.
        torch.OutOfMemoryError: It doesn't fit.
    """
    began = time.perf_counter()
    why = _compile_blocks(denoiser)
    if why is None:
        try:
            try_shapes()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            forget_compiled(denoiser)
            why = str(error)[:500]
    if why is None:
        log.info("compiled", seconds=time.perf_counter() - began)
    elif switch is Switch.ALWAYS:
        raise TrainerError(
            Reason.INVALID_JOB,
            f"optimization.compile: always, but this model can't be compiled here ({why}); use "
            "auto or never",
        )
    else:
        log.warning("not compiled", why=why)


def _compile_blocks(denoiser: torch.nn.Module) -> str | None:
    """Compile the blocks at their next call; returns why that can't be done."""
    if not getattr(denoiser, "_repeated_blocks", None):
        return "it names no repeated blocks"
    model: Any = denoiser
    model.compile_repeated_blocks()
    return None


def forget_compiled(denoiser: torch.nn.Module) -> None:
    """Let the blocks run as they are again: after training, drawing would compile them anew."""
    for module in denoiser.modules():
        plain: Any = module
        plain._compiled_call_impl = None
