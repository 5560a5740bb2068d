"""One component of a base model into memory, from a folder or out of a single-file checkpoint.

A module of its own so that a recipe names what it wants and never where it lies.
"""

from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    create_diffusers_clip_model_from_ldm,
    load_single_file_checkpoint,
)
from transformers.utils import logging

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes.filling import filled


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
    """
    single_file = _single_file(base, component)
    if single_file is None:
        loaded = filled(model, base, component, device=device, dtype=dtype, without=without)
        return _frozen(loaded, device)
    loaded = model.from_single_file(single_file, torch_dtype=dtype, **_configs(base, component))
    if without is not None:
        setattr(loaded, without, None)
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
    """
    logging.disable_progress_bar()
    single_file = _single_file(base, component)
    if single_file is None:
        loaded = model.from_pretrained(
            base.folder / component,
            use_safetensors=True,
            variant=base.variants[component],
            local_files_only=True,
            dtype=dtype,
        )
        return _frozen(loaded, device)
    loaded = create_diffusers_clip_model_from_ldm(
        model,
        checkpoint=load_single_file_checkpoint(single_file, local_files_only=True),
        torch_dtype=dtype,
        **_configs(base, component),
    )
    return _frozen(loaded, device)


def _single_file(base: BaseModel, component: str) -> str | None:
    """The file in an original layout that has the component's weights, where there is one."""
    inside = base.single_file is not None and component in base.in_single_file
    return str(base.single_file) if inside else None


def _configs(base: BaseModel, component: str) -> dict[str, Any]:
    """Where the config of a component lies whose weights are in a single file."""
    return {"config": str(base.folder), "subfolder": component, "local_files_only": True}


def _frozen(model: Any, device: torch.device) -> Any:
    return model.to(device).eval().requires_grad_(False)


def skeleton_of(model: Any, base: BaseModel, component: str) -> torch.nn.Module:
    """A diffusers model on the meta device: names and shapes without weights."""
    with torch.device("meta"):
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
