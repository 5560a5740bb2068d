"""The base model from storage into the workspace, from a folder or as a single file.

A module of its own because it decides what of a folder a run needs, and refuses what it can before
a gigabyte is fetched.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_api.reasons import Reason
from lora_api.settings import BaseModelSettings
from lora_trainer.basemodel import (
    BaseModel,
    Selection,
    check_config_sizes,
    check_pipeline,
    check_weight_header,
    components_of,
    read_configs,
    select_files,
)
from lora_trainer.disk import sha256_of_json
from lora_trainer.download import fetch_files
from lora_trainer.errors import TrainerError
from lora_trainer.progress import Advance
from lora_trainer.recipes import RecipeDefaults
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import Storage, StoredFile, open_storage

_INDEX = "model_index.json"
_MAX_INDEX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseSource:
    """Where a base model comes from; nothing is asked of it yet."""

    folder: Storage
    """Diffusers layout: all of it, or what a single file lacks."""

    single: Storage | None = None
    """Where the single file lies."""

    single_name: str = ""
    """Its name there."""


def open_base(settings: BaseModelSettings, *, stop: StopFlag) -> BaseSource:
    """The storages that a job's base model names.

    Args:
        settings: Checked: a single file has its components.
        stop: Ends waits between retries.

    Raises:
        StorageError: The environment does not say how to get there.
    """
    if not settings.is_single_file or settings.components_uri is None:
        return BaseSource(folder=open_storage(settings.uri, field="baseModel.uri", stop=stop))
    parent, _, name = settings.uri.rpartition("/")
    return BaseSource(
        folder=open_storage(settings.components_uri, field="baseModel.componentsUri", stop=stop),
        single=open_storage(parent, field="baseModel.uri", stop=stop),
        single_name=name,
    )


def fetch_base_model(
    source: BaseSource,
    folder: Path,
    recipe: RecipeDefaults,
    *,
    check: Callable[[BaseModel], None],
    advance: Advance,
) -> BaseModel:
    """Bring the base model's needed files here, or use them where they are.

    Args:
        source: Where they lie.
        folder: Where to put them, if they must be fetched.
        recipe: Says what is needed.
        check: Looks at the configs before the weights are fetched, and again at a single file.
        advance: Told bytes done and bytes in all.

    Raises:
        TrainerError: BaseModelNotFound, BaseModelInvalid, or a StorageError.
    """
    storage = source.folder
    where = f"{storage.field} {storage.uri}"
    files = {file.name: file for file in storage.list_files()}
    _check_index(storage, files, recipe, where=where)
    single = _find_single(source)
    selection = select_files(files, recipe, where=where, single_file=single is not None)
    components = components_of(recipe, files)
    if single is not None and len(components) > len(recipe.components):
        raise TrainerError(
            Reason.BASE_MODEL_INVALID,
            f"baseModel.uri {source.single_name}: is one of the model's two experts; name the "
            "folder of the whole model in diffusers layout",
        )
    small = [files[name] for name in selection.configs]
    check_config_sizes({file.name: file.size_bytes for file in small}, where=where)
    digests = _fetch(storage, small, folder, advance=lambda *_: None)
    at = storage.folder or folder
    configs = read_configs(at, components, where=where)
    check(_base_model(at, selection, configs, digests))
    digests |= _fetch(storage, [files[name] for name in selection.weights], folder, advance=advance)
    for name in selection.weights:
        check_weight_header(at / name, name=name, where=where)
    if single is None:
        return _base_model(at, selection, configs, digests)
    path, digests[single.name] = _fetch_single(source, single, folder, advance=advance)
    base = _base_model(at, selection, configs, digests, single=path, recipe=recipe)
    check(base)
    return base


def _check_index(
    storage: Storage, files: dict[str, StoredFile], recipe: RecipeDefaults, *, where: str
) -> None:
    """Refuse a model of another family by its index, before components are missed."""
    data = storage.read(_INDEX, limit_bytes=_MAX_INDEX_BYTES) if _INDEX in files else None
    if data is None:
        return
    try:
        index = json.loads(data)
    except (ValueError, RecursionError):
        return  # read_configs says it with the others
    if isinstance(index, dict):
        check_pipeline(index, recipe, where=where)


def _find_single(source: BaseSource) -> StoredFile | None:
    if source.single is None:
        return None
    found = source.single.find(source.single_name)
    if found is None:
        raise TrainerError(
            Reason.BASE_MODEL_NOT_FOUND,
            f"baseModel.uri: there is no {source.single_name} in {source.single.uri}; correct "
            "baseModel.uri",
        )
    return found


def _fetch(
    storage: Storage, files: Sequence[StoredFile], folder: Path, *, advance: Advance
) -> dict[str, str]:
    return fetch_files(
        storage,
        files,
        folder,
        unsafe=Reason.BASE_MODEL_INVALID,
        in_place=storage.folder,
        advance=advance,
    )


def _fetch_single(
    source: BaseSource, file: StoredFile, folder: Path, *, advance: Advance
) -> tuple[Path, str]:
    """The single file's path and digest."""
    assert source.single is not None  # noqa: S101 - the caller found the file there
    beside = folder.with_name(f"{folder.name}-single-file")
    digests = _fetch(source.single, [file], beside, advance=advance)
    path = (source.single.folder or beside) / file.name
    check_weight_header(path, name=file.name, where=f"baseModel.uri {source.single.uri}")
    return path, digests[file.name]


def _base_model(
    folder: Path,
    selection: Selection,
    configs: dict[str, dict[str, Any]],
    digests: dict[str, str],
    *,
    single: Path | None = None,
    recipe: RecipeDefaults | None = None,
) -> BaseModel:
    """What is known of the model; with a single file, its digest is part of its components'."""
    inside = recipe.single_file if recipe is not None else frozenset()

    def digest_of(component: str) -> str:
        whole = {} if single is None or component not in inside else {"": digests[single.name]}
        own = {name: one for name, one in digests.items() if name.startswith(f"{component}/")}
        return sha256_of_json(own | whole)

    return BaseModel(
        folder=folder,
        configs=configs,
        variants=selection.variants,
        digests={name: digest_of(name) for name in configs if name != "model_index"},
        digest=f"sha256:{sha256_of_json(digests)}",
        single_file=single,
        in_single_file=inside,
    )
