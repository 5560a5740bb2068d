"""What a recipe says of a base model that it can't train, and of a file that is for another one.

A module of its own because the sentence must be the same in every family: what was found, what
that is, and what to do instead.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError


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
