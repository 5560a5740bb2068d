"""The base model from storage into the workspace.

A module of its own because it decides what of a folder a run needs, and refuses what it can before
anything is fetched.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_api.reasons import Reason
from lora_trainer.basemodel import (
    BaseModel,
    Selection,
    check_config_sizes,
    check_weight_header,
    read_configs,
    select_files,
)
from lora_trainer.disk import sha256_of_json
from lora_trainer.download import fetch_files
from lora_trainer.progress import Advance
from lora_trainer.recipes import RecipeDefaults
from lora_trainer.storage import Storage


def fetch_base_model(
    storage: Storage,
    folder: Path,
    recipe: RecipeDefaults,
    *,
    check: Callable[[BaseModel], None],
    advance: Advance,
) -> BaseModel:
    """Bring the base model's needed files here, or use them where they are.

    Args:
        storage: Where they lie.
        folder: Where to put them, if they must be fetched.
        recipe: Says what is needed.
        check: Looks at the configs before the weights are fetched.
        advance: Told bytes done and bytes in all.

    Raises:
        TrainerError: BaseModelNotFound, BaseModelInvalid, or a StorageError.
    """
    where = f"baseModel.uri {storage.uri}"
    files = {file.name: file for file in storage.list_files()}
    selection = select_files(files, recipe, where=where)
    small = [files[name] for name in selection.configs]
    large = [files[name] for name in selection.weights]
    check_config_sizes({file.name: file.size_bytes for file in small}, where=where)
    at = storage.folder or folder
    invalid, in_place = Reason.BASE_MODEL_INVALID, storage.folder
    digests = fetch_files(
        storage, small, folder, unsafe=invalid, in_place=in_place, advance=lambda *_: None
    )
    configs = read_configs(at, recipe, where=where)
    preview = _base_model(at, selection, configs, digests, recipe)
    check(preview)
    digests |= fetch_files(
        storage, large, folder, unsafe=invalid, in_place=in_place, advance=advance
    )
    for name in selection.weights:
        check_weight_header(at / name, name=name, where=where)
    return _base_model(at, selection, configs, digests, recipe)


def _base_model(
    folder: Path,
    selection: Selection,
    configs: dict[str, dict[str, Any]],
    digests: dict[str, str],
    recipe: RecipeDefaults,
) -> BaseModel:
    parts = {
        component: sha256_of_json(
            {name: digest for name, digest in digests.items() if name.startswith(f"{component}/")}
        )
        for component in recipe.components
    }
    return BaseModel(
        folder=folder,
        configs=configs,
        variants=selection.variants,
        digests=parts,
        digest=f"sha256:{sha256_of_json(digests)}",
    )
