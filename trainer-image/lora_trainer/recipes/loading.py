"""One component of a base model into memory, from a folder or out of a single-file checkpoint.

A module of its own so that a recipe names what it wants and never where it lies.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    create_diffusers_clip_model_from_ldm,
    load_single_file_checkpoint,
)
from transformers.utils import logging

from lora_api.reasons import Reason
from lora_trainer.basemodel import BaseModel
from lora_trainer.errors import TrainerError
from lora_trainer.recipes.checking import understood
from lora_trainer.recipes.filling import filled

_NAMED = 3  # of the weights that are missing; one tells as much as all


def load_component(
    model: Any,
    base: BaseModel,
    component: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    without: str | None = None,
) -> Any:
    """A diffusers model, frozen.

    Args:
        model: The class.
        base: The base model.
        component: Its folder's name.
        device: Where to.
        dtype: Of the weights; those that the class keeps in float32 stay so.
        without: A part that is not needed and takes no memory, by its attribute's name.

    Raises:
        TrainerError: BaseModelInvalid; weights are missing, or don't fit the config.
    """
    single_file = _single_file(base, component)
    if single_file is None:
        loaded = filled(model, base, component, device=device, dtype=dtype, without=without)
        return _frozen(loaded, device)
    with _named(component):
        loaded = model.from_single_file(single_file, torch_dtype=dtype, **_configs(base, component))
    if without is not None:
        setattr(loaded, without, None)
    _refuse_missing(component, _empty(loaded))
    _keep_in_float32(loaded)
    return _frozen(loaded, device)


def load_text_model(
    model: Any, base: BaseModel, component: str, *, device: torch.device, dtype: torch.dtype
) -> Any:
    """A transformers text model, frozen.

    Args:
        model: The class.
        base: The base model.
        component: Its folder's name.
        device: Where to.
        dtype: Of the weights.

    Raises:
        TrainerError: BaseModelInvalid; weights are missing, or don't fit the config.
    """
    logging.disable_progress_bar()
    single_file = _single_file(base, component)
    if single_file is None:
        # transformers fills what is missing with random numbers, and says so in a warning.
        loaded, found = model.from_pretrained(
            base.folder / component,
            use_safetensors=True,
            variant=base.variants[component],
            local_files_only=True,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        other_shapes = [one[0] for one in found["mismatched_keys"]]
        _refuse_missing(component, [*found["missing_keys"], *other_shapes])
        return _frozen(loaded, device)
    with _named(component):
        loaded = create_diffusers_clip_model_from_ldm(
            model,
            checkpoint=load_single_file_checkpoint(single_file, local_files_only=True),
            torch_dtype=dtype,
            **_configs(base, component),
        )
    _refuse_missing(component, _empty(loaded))
    return _frozen(loaded, device)


def _single_file(base: BaseModel, component: str) -> str | None:
    """The file in an original layout that has the component's weights, where there is one."""
    inside = base.single_file is not None and component in base.in_single_file
    return str(base.single_file) if inside else None


def _configs(base: BaseModel, component: str) -> dict[str, Any]:
    """Where the config of a component lies whose weights are in a single file."""
    return {"config": str(base.folder), "subfolder": component, "local_files_only": True}


def _empty(model: torch.nn.Module) -> list[str]:
    """What a loader left without values, because its file has none."""
    return [name for name, tensor in model.state_dict().items() if tensor.is_meta]


@contextmanager
def _named(component: str) -> Iterator[None]:
    """What diffusers' converters stumble over where a single file lacks something."""
    try:
        yield
    except KeyError as error:
        raise _lacks(component, str(error.args[0])) from error
    except NotImplementedError as error:  # it moves a model with weights that have no values
        raise _lacks(component, "some that the model has") from error


def _refuse_missing(component: str, names: Iterable[str]) -> None:
    lacking = sorted(names)
    if lacking:
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        raise _lacks(component, f"{', '.join(lacking[:_NAMED])}{more}")


def _lacks(component: str, what: str) -> TrainerError:
    return TrainerError(
        Reason.BASE_MODEL_INVALID,
        f"baseModel: the weights of {component} lack {what}, or have them in another shape than "
        "its config.json says; copy the model anew",
    )


def _frozen(model: Any, device: torch.device) -> Any:
    return model.to(device).eval().requires_grad_(False)


def skeleton_of(model: Any, base: BaseModel, component: str) -> torch.nn.Module:
    """A diffusers model on the meta device: names and shapes without weights."""
    with understood(component), torch.device("meta"):
        empty: torch.nn.Module = model.from_config(base.configs[component])
    return empty


def _keep_in_float32(model: torch.nn.Module) -> None:
    """Undo a cast that from_pretrained would not have made (diffusers' single-file loader does)."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or []
    for name, parameter in model.named_parameters():
        if any(part in kept for part in name.split(".")):
            parameter.data = parameter.data.float()


def keep_precision(module: torch.nn.Module) -> None:
    """Let a module that is stored more precisely than its model compute so while training, too.

    Autocast would hand its layers rounded weights.
    """
    plain = module.forward

    def forward(values: torch.Tensor, *others: Any) -> Any:
        with torch.autocast(values.device.type, enabled=False):
            return plain(values, *others)

    module.forward = forward
