"""What a recipe says of a base model that it can't train.

A module of its own because the sentence must be the same in every family: what was found, what
that is, and what to do instead.
"""

from collections.abc import Sequence

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
