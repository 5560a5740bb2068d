"""A diffusers model from its safetensors, one tensor after the other.

A module of its own because it is what a run's peak of host memory depends on. diffusers maps a
file, copies all of it into the wanted type and lets go of the mapping last: every page that was
read counts beside the copies, half of an fp32 model's weights where the file is fp16. Here a
tensor's bytes are gone before the next one's are read, on the way to a GPU, too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import safe_open

from lora_api.reasons import Reason
from lora_trainer.basemodel import BaseModel, weight_files
from lora_trainer.errors import TrainerError
from lora_trainer.recipes.checking import understood

_NAMED = 3  # of the weights that don't fit; one tells as much as all


def filled(
    model: Any,
    base: BaseModel,
    component: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    without: str | None = None,
) -> Any:
    """A component of a folder in diffusers layout.

    Args:
        model: Its class, of diffusers.
        base: The base model.
        component: Its folder's name.
        device: Where to.
        dtype: Of the weights; those that the class keeps in float32 stay so.
        without: A part that is not needed and is left out, by its attribute's name.

    Raises:
        TrainerError: BaseModelInvalid; weights and config don't belong together.
    """
    with understood(component), init_empty_weights():
        empty = model.from_config(base.configs[component])
    if without is not None:
        setattr(empty, without, None)
    shapes = {name: one.shape for name, one in empty.state_dict().items()}
    kept = set(getattr(empty, "_keep_in_fp32_modules", None) or ())
    lacking, faults = set(shapes), []
    for name, value in _tensors(empty, weight_files(base, component), wanted=lacking.copy()):
        lacking.discard(name)
        if value.shape != shapes[name]:
            faults.append(f"{name} is {_shape(value.shape)}, not {_shape(shapes[name])}")
            continue
        kind = torch.float32 if kept.intersection(name.split(".")) else dtype
        _put(empty, name, value, device=device, dtype=kind)
    faults += [f"{name} is missing" for name in sorted(lacking)]
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise TrainerError(
            Reason.BASE_MODEL_INVALID,
            f"baseModel: the weights in {component}/ do not fit its config.json: "
            f"{', '.join(faults[:_NAMED])}{more}; copy the model anew",
        )
    return empty


def _tensors(
    empty: Any, files: list[Path], *, wanted: set[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The wanted tensors of some files by their names in the model, each read when it is its turn.

    Files may have more: what is left out, and what older versions of the model had.
    """
    for path in files:
        with safe_open(path, "pt", backend="pread") as file:
            names = {name: name for name in file.offset_keys()}
            # VAEs of SD 1.5's time name their attention layers differently; diffusers knows how.
            empty._fix_state_dict_keys_on_load(names)
            for name, stored in names.items():
                if name in wanted:
                    yield name, file.get_tensor(stored)


def _put(
    model: Any, name: str, value: torch.Tensor, *, device: torch.device, dtype: torch.dtype
) -> None:
    kind = dtype if value.is_floating_point() else value.dtype
    set_module_tensor_to_device(
        model, name, device, value=value.to(device, kind), dtype=kind, clear_cache=False
    )


def _shape(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"
