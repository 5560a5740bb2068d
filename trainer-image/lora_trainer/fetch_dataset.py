"""The dataset from storage into the workspace.

A module of its own because it decides what of a prefix, an archive or a list a run needs, and
refuses from the listing what need not be fetched to be refused.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lora_api.reasons import Reason
from lora_api.settings import DatasetSettings, InvalidFiles
from lora_trainer import log
from lora_trainer.captions import MAX_CAPTION_BYTES
from lora_trainer.errors import TrainerError
from lora_trainer.faults import FileFault
from lora_trainer.metadata import MAX_METADATA_BYTES, is_metadata
from lora_trainer.progress import Advance
from lora_trainer.sources import Source, open_source
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import StoredFile


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedDataset:
    """The dataset's files on this machine."""

    folder: Path
    """Where they lie."""

    pictures: list[str]
    """Names of pictures and clips, relative to the folder."""

    captions: list[str]
    """Names of their .txt files."""

    metadata: list[str]
    """Names of files that hold captions of several pictures."""

    faults: list[FileFault]
    """Files left where they are, because the listing alone says that they can't be used."""

    orphans: list[str]
    """Captions left where they are, because no picture has their name."""

    field: str
    """The job's field that names the dataset, for messages."""

    where: str
    """Where the files lie, for messages: ``under s3://...``."""

    labels: Mapping[str, str]
    """How messages call a file, where its name alone does not say where it is named."""


def fetch_dataset(
    settings: DatasetSettings, folder: Path, *, stop: StopFlag, advance: Advance
) -> FetchedDataset:
    """Bring pictures, clips and captions here.

    Args:
        settings: Where they lie, and their bounds.
        folder: Where to put them.
        stop: Ends waits between retries.
        advance: Told bytes done and bytes in all.

    Raises:
        TrainerError: ObjectNotFound, TooManyImages or InvalidImages, before anything is fetched;
            or a StorageError.
    """
    source = open_source(settings, beside=folder, stop=stop)
    listed, faults = source.list_files(advance)
    files = [file for file in listed if not _is_hidden(file.name)]
    if not files and not faults:
        raise TrainerError(
            Reason.OBJECT_NOT_FOUND,
            f"{source.field}: nothing lies {source.where}; upload the pictures or correct "
            f"{source.field}",
        )
    captions = [file for file in files if is_caption(file.name)]
    metadata = [file for file in files if is_metadata(file.name)]
    texts = {file.name for file in captions + metadata}
    pictures = [file for file in files if file.name not in texts]
    stems = {stem_of(file.name) for file in pictures}
    orphans = [file.name for file in captions if stem_of(file.name) not in stems]
    captions = [file for file in captions if stem_of(file.name) in stems]
    listed_pictures = len(pictures)
    pictures = _within(pictures, settings.max_file_bytes, "dataset.maxFileBytes", faults)
    captions = _within(captions, MAX_CAPTION_BYTES, "which is no caption", faults, texts)
    metadata = _within(metadata, MAX_METADATA_BYTES, "which is no list", faults, texts)
    skipping = settings.on_invalid_files is InvalidFiles.SKIP
    _check_count(len(pictures) if skipping else listed_pictures, settings, source)
    fitting = pictures + captions + metadata
    # Before, for what was a folder may be a file now, and the other way round.
    _drop_others(folder, {file.name for file in fitting})
    source.bring(fitting, folder, advance)
    return FetchedDataset(
        folder=folder,
        pictures=[file.name for file in pictures],
        captions=[file.name for file in captions],
        metadata=[file.name for file in metadata],
        faults=faults,
        orphans=orphans,
        field=source.field,
        where=source.where,
        labels=source.labels,
    )


def stem_of(name: str) -> str:
    """What a picture and its caption share: the name without its last ending."""
    return str(PurePosixPath(name).with_suffix(""))


def is_caption(name: str) -> bool:
    """Whether a file is a caption by its name."""
    return name.lower().endswith(".txt")


def _within(
    files: Iterable[StoredFile],
    limit_bytes: int,
    why: str,
    faults: list[FileFault],
    texts: Iterable[str] = (),
) -> list[StoredFile]:
    """The files that are small enough; the others become faults."""
    fitting = []
    for file in files:
        if file.size_bytes <= limit_bytes:
            fitting.append(file)
            continue
        text = f"is longer than {limit_bytes} bytes ({file.size_bytes}), {why}"
        if file.name not in texts:
            text = f"has {file.size_bytes} bytes, more than {limit_bytes} ({why})"
        faults.append(FileFault(name=file.name, text=text, is_caption=file.name in texts))
    return fitting


def _check_count(count: int, settings: DatasetSettings, source: Source) -> None:
    if count > settings.max_images:
        raise TrainerError(
            Reason.TOO_MANY_IMAGES,
            f"{source.field}: {count} pictures lie {source.where}, dataset.maxImages is "
            f"{settings.max_images}; remove some or raise dataset.maxImages",
        )


def _is_hidden(name: str) -> bool:
    """Files that tools leave behind (.DS_Store, __MACOSX, Thumbs.db) are nobody's picture."""
    parts = name.split("/")
    return any(part.startswith((".", "__MACOSX")) for part in parts) or name.endswith("Thumbs.db")


def _drop_others(folder: Path, names: set[str]) -> None:
    """Remove what an earlier version of the dataset left here; folders only in a file's way."""
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder after what lies in it
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and name in names:
            log.info("no longer a folder in the dataset", folder=name)
            shutil.rmtree(path)
        elif path.is_file() and name not in names:
            log.info("no longer in the dataset", file=name)
            path.unlink()
