"""What a recipe says of a base model that it can't train, and of a file that is for another one.

A module of its own because the sentence must be the same in every family: what was found, what
that is, and what to do instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lora_api.reasons import Reason
from lora_trainer.basemodel import BaseModel
from lora_trainer.errors import TrainerError

# What the trainer itself computes with, where a config has it at all.
_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "scheduler": ("num_train_timesteps",),
    "vae": ("scaling_factor", "latent_channels", "z_dim"),
    "unet": ("in_channels",),
    "transformer": ("num_attention_heads", "attention_head_dim", "in_channels"),
    "transformer_2": ("num_attention_heads", "attention_head_dim", "in_channels"),
    "text_encoder": ("hidden_size", "d_model", "max_position_embeddings"),
    "text_encoder_2": ("hidden_size", "d_model", "max_position_embeddings"),
}


def refuse_odd_numbers(base: BaseModel) -> None:
    """Refuse configs in which a number is none.

    Raises:
        TrainerError: BaseModelInvalid with each file and field.
    """
    faults = []
    for component, fields in _NUMBERS.items():
        config = base.configs.get(component, {})
        for field in fields:
            value = config.get(field, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                faults.append(
                    f"{config_file(component)}: {field} is {value!r}, which is no number above 0"
                )
    if faults:
        raise TrainerError(
            Reason.BASE_MODEL_INVALID,
            f"baseModel.uri: {'; '.join(faults)}; copy the model anew",
        )


def config_file(component: str) -> str:
    """Name of a component's config in the base model's folder."""
    return f"{component}/{'scheduler_config' if component == 'scheduler' else 'config'}.json"


@contextmanager
def understood(component: str) -> Iterator[None]:
    """Say whose config it is that a library stumbles over while it makes a model of it.

    Args:
        component: Its folder's name.

    Raises:
        TrainerError: BaseModelInvalid with the library's words.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        NotImplementedError,
        TypeError,
        ValueError,
    ) as error:
        said = " ".join(str(error).split())[:300]
        raise TrainerError(
            Reason.BASE_MODEL_INVALID,
            f"baseModel.uri: {config_file(component)} makes no model ({type(error).__name__}: "
            f"{said}); copy the model anew",
        ) from error


def per_channel_fault(vae: Mapping[str, Any], field: str, channels: object) -> str | None:
    """What is wrong with a list of a number for each of the latents' channels."""
    value = vae.get(field)
    fine = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
    if fine and len(value or []) == channels:
        return None
    return f"vae/config.json: {field} is {str(value)[:40]}, not a number for each of its channels"


def refuse_faults(family: str, faults: Sequence[str]) -> None:
    """Raise where there are any.

    Args:
        family: What the recipe trains, in words.
        faults: What differs, each a clause.

    Raises:
        TrainerError: BaseModelInvalid with all of them.
    """
    if faults:
        raise TrainerError(
            Reason.BASE_MODEL_INVALID,
            f"baseModel.uri: not a {family} model: {'; '.join(faults)}; name another base model "
            "or another recipe",
        )


def refuse_other_width(
    path: Path, ending: str, *, width: int, family: str, sizes: Mapping[int, str]
) -> None:
    """Refuse a LoRA that was trained on a model of another size, in words.

    Args:
        path: The LoRA's file.
        ending: Of the names of matrices that read the model's tokens.
        width: Of the base model's tokens.
        family: The family's name.
        sizes: Published models by their width.

    Raises:
        TrainerError: ArtifactMismatch with both sizes.
    """
    with safe_open(path, "pt") as file:
        downs = [name for name in file.keys() if name.endswith(ending)]  # noqa: SIM118
        widths = {file.get_slice(name).get_shape()[1] for name in downs}
    other = next(iter(widths - {width}), None)
    if other is not None:
        raise TrainerError(
            Reason.ARTIFACT_MISMATCH,
            f"{path.name} is a LoRA for {sizes.get(other, f'a {family}')} (width {other}), the "
            f"base model is {sizes.get(width, f'a {family}')} (width {width}); name the base model "
            "that it was trained on",
        )
