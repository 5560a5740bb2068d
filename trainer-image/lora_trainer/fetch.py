"""Dataset and base model from storage into the workspace.

A module of its own because it decides what of a prefix a run needs, and refuses what it can before
anything is fetched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.basemodel import (
    BaseModel,
    Selection,
    check_config_sizes,
    check_weight_header,
    read_configs,
    select_files,
)
from lora_trainer.captions import MAX_CAPTION_BYTES
from lora_trainer.disk import sha256_of_json
from lora_trainer.download import fetch_files
from lora_trainer.errors import TrainerError
from lora_trainer.progress import Advance
from lora_trainer.recipes import RecipeDefaults
from lora_trainer.storage import Storage, StoredFile

# A picture is refused by validation above 64 MiB; nothing larger is even fetched.
MAX_DATASET_FILE_BYTES = 64 << 20
# A message names this many files.
_NAMED_FILES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedDataset:
    """The dataset's files on this machine."""

    folder: Path
    """Where they lie."""

    names: list[str]
    """Their names, relative."""

    oversized: list[str]
    """Files left where they are, because they are too large for a picture."""

    orphans: list[str]
    """Captions left where they are, because no picture has their name."""


def fetch_dataset(
    storage: Storage, folder: Path, *, max_images: int, advance: Advance
) -> FetchedDataset:
    """Bring pictures and captions here.

    Args:
        storage: Where they lie.
        folder: Where to put them.
        max_images: Most pictures that the job accepts.
        advance: Told bytes done and bytes in all.

    Raises:
        TrainerError: ObjectNotFound, TooManyImages, InvalidCaptions or InvalidImages, before
            anything is fetched; or a StorageError.
    """
    files = [file for file in storage.list_files() if not _is_hidden(file.name)]
    if not files:
        raise TrainerError(
            Reason.OBJECT_NOT_FOUND,
            f"dataset.uri: nothing lies under {storage.uri}; upload the pictures or correct "
            "dataset.uri",
        )
    pictures = [file for file in files if not is_caption(file.name)]
    if len(pictures) > max_images:
        raise TrainerError(
            Reason.TOO_MANY_IMAGES,
            f"dataset.uri: {len(pictures)} pictures lie under {storage.uri}, "
            f"dataset.maxImages is {max_images}; remove some or raise dataset.maxImages",
        )
    stems = {stem_of(file.name) for file in pictures}
    captions: list[StoredFile] = []
    orphans: list[StoredFile] = []
    for file in filter(lambda file: is_caption(file.name), files):
        (captions if stem_of(file.name) in stems else orphans).append(file)
    _check_captions(captions)
    fitting = [file for file in pictures if file.size_bytes <= MAX_DATASET_FILE_BYTES] + captions
    fetch_files(storage, fitting, folder, unsafe=Reason.INVALID_IMAGES, advance=advance)
    _drop_others(folder, {file.name for file in fitting})
    return FetchedDataset(
        folder=folder,
        names=[file.name for file in fitting],
        oversized=[file.name for file in pictures if file.size_bytes > MAX_DATASET_FILE_BYTES],
        orphans=[file.name for file in orphans],
    )


def stem_of(name: str) -> str:
    """What a picture and its caption share: the name without its last ending."""
    return str(PurePosixPath(name).with_suffix(""))


def is_caption(name: str) -> bool:
    """Whether a file is a caption by its name."""
    return name.lower().endswith(".txt")


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


def _check_captions(captions: list[StoredFile]) -> None:
    long = [file.name for file in captions if file.size_bytes > MAX_CAPTION_BYTES]
    if long:
        more = f" and {len(long) - _NAMED_FILES} more" if len(long) > _NAMED_FILES else ""
        raise TrainerError(
            Reason.INVALID_CAPTIONS,
            f"dataset.uri: {', '.join(long[:_NAMED_FILES])}{more}: longer than "
            f"{MAX_CAPTION_BYTES} bytes, which is no caption; shorten or remove",
        )


def _is_hidden(name: str) -> bool:
    """Files that tools leave behind (.DS_Store, Thumbs.db) are nobody's picture."""
    return any(part.startswith(".") for part in name.split("/")) or name.endswith("Thumbs.db")


def _drop_others(folder: Path, names: set[str]) -> None:
    """Remove what an earlier version of the dataset left here."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            log.info("no longer in the dataset", file=path.relative_to(folder).as_posix())
            path.unlink()
