"""The adapter on the denoiser: which layers get one, how it starts, how it is read out.

A module of its own because it is all that the trainer knows of peft; the loop sees parameters,
the recipes see names.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.schedule import seed_for

TRAINED = "trained"
RELOADED = "reloaded"
_ADAPTABLE = (torch.nn.Linear, torch.nn.Conv2d)


def find_layers(model: torch.nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the layers that the job's target modules mean.

    Args:
        model: The denoiser; its weights are not looked at.
        targets: Names or endings of names.

    Raises:
        TrainerError: TargetModulesNotFound, naming every target that means nothing or something
            that can't be adapted.
    """
    kinds = {name: module for name, module in model.named_modules() if name}
    layers: set[str] = set()
    faults = []
    for target in targets:
        found = [name for name in kinds if name == target or name.endswith(f".{target}")]
        fitting = [name for name in found if isinstance(kinds[name], _ADAPTABLE)]
        layers.update(fitting)
        if not found:
            faults.append(f"{target!r} names no layer{_hint(target, kinds.items())}")
        elif not fitting:
            kind = type(kinds[found[0]]).__name__
            faults.append(f"{target!r} is a {kind}, not a linear or convolution layer")
    if faults:
        raise TrainerError(
            Reason.TARGET_MODULES_NOT_FOUND,
            f"network.targetModules: {'; '.join(faults)}. Usual are to_q, to_k, to_v, to_out.0",
        )
    return sorted(layers)


def attach(
    model: torch.nn.Module,
    layers: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    seed: int,
) -> dict[str, torch.nn.Parameter]:
    """Put a fresh adapter on the layers; it changes nothing until it is trained.

    Args:
        model: The frozen denoiser.
        layers: Full names of the layers.
        rank: Of the added matrices.
        alpha: The LoRA's scale.
        dropout: Share of the LoRA's inputs that is zeroed.
        seed: The run's seed.

    Returns:
        The trainable parameters by name, in float32 whatever the base's precision.
    """
    from peft import LoraConfig

    torch.manual_seed(seed_for(seed, "lora"))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=list(layers),
    )
    adapted: Any = model
    adapted.add_adapter(config, adapter_name=TRAINED)
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
    return parameters


def read_weights(model: torch.nn.Module, adapter: str = TRAINED) -> dict[str, torch.Tensor]:
    """An adapter's weights on the CPU: ``<module path>.lora_A.weight`` and ``.lora_B.weight``."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=adapter)
    return {name: tensor.detach().cpu().clone() for name, tensor in sorted(state.items())}


class Adapted(torch.nn.ModuleList):
    """Several models whose adapters are switched together."""

    def set_adapter(self, name: str) -> None:
        """Make one adapter the one that counts, in each."""
        for model in self:
            activate(model, name)

    def disable_adapters(self) -> None:
        """Make each the base model that it was."""
        for model in self:
            adapted: Any = model
            adapted.disable_adapters()

    def enable_adapters(self) -> None:
        """Undo `disable_adapters`."""
        for model in self:
            adapted: Any = model
            adapted.enable_adapters()


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an adapter, on the CPU."""

    down: torch.Tensor
    """[rank, ...]: to the rank."""

    up: torch.Tensor
    """[..., rank, ...]: from the rank."""

    scale: float
    """What their product is multiplied by."""

    def effect(self) -> torch.Tensor:
        """[out, in] what the layer adds to the base model's weights."""
        return self.scale * (self.up.float().flatten(1) @ self.down.float().flatten(1))


def read_layers(model: torch.nn.Module, adapter: str) -> dict[str, Layer]:
    """An adapter's layers by module path."""
    from peft.tuners.lora import LoraLayer

    return {
        name: Layer(
            module.lora_A[adapter].weight.detach().cpu(),
            module.lora_B[adapter].weight.detach().cpu(),
            float(module.scaling[adapter]),
        )
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and adapter in module.lora_A
    }


def activate(model: torch.nn.Module, adapter: str) -> None:
    """Make one adapter the one that counts."""
    adapted: Any = model
    adapted.set_adapter(adapter)


@contextmanager
def base_only(model: torch.nn.Module) -> Iterator[None]:
    """The base model as it was, without any adapter."""
    adapted: Any = model
    adapted.disable_adapters()
    try:
        yield
    finally:
        adapted.enable_adapters()


def _hint(target: str, kinds: Iterable[tuple[str, torch.nn.Module]]) -> str:
    endings = set()
    for name, module in kinds:
        if isinstance(module, _ADAPTABLE):
            parts = name.split(".")
            endings.update({parts[-1], ".".join(parts[-2:])})
    words = sorted(ending for ending in endings if not ending.isdigit())
    near = difflib.get_close_matches(target, words, n=3, cutoff=0.5)
    return f" (near: {', '.join(near)})" if near else ""
