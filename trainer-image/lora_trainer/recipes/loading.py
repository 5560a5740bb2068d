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


def load_component(
    model: Any, base: BaseModel, component: str, *, device: torch.device, dtype: torch.dtype
) -> Any:
    """A diffusers model, frozen.

    Args:
        model: The class.
        base: The base model.
        component: Its folder's name.
        device: Where to.
        dtype: Of the weights; those that the class keeps in float32 stay so.
    """
    if base.single_file is not None and component in base.in_single_file:
        loaded = model.from_single_file(
            str(base.single_file),
            config=str(base.folder),
            subfolder=component,
            torch_dtype=dtype,
            local_files_only=True,
        )
        _keep_in_float32(loaded)
    else:
        loaded = model.from_pretrained(
            base.folder / component,
            torch_dtype=dtype,
            use_safetensors=True,
            variant=base.variants[component],
            local_files_only=True,
        )
    return loaded.to(device).eval().requires_grad_(False)


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
    if base.single_file is not None and component in base.in_single_file:
        loaded = create_diffusers_clip_model_from_ldm(
            model,
            checkpoint=load_single_file_checkpoint(str(base.single_file), local_files_only=True),
            subfolder=component,
            config=str(base.folder),
            torch_dtype=dtype,
            local_files_only=True,
        )
    else:
        loaded = model.from_pretrained(
            base.folder / component,
            dtype=dtype,
            use_safetensors=True,
            variant=base.variants[component],
            local_files_only=True,
        )
    return loaded.to(device).eval().requires_grad_(False)


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
