"""The checked dataset: pictures with captions, split into those trained on and those held out.

A module of its own because all faults of all files must come out in one message, which needs a
view of the whole.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lora_api.job import JobDocument
from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.captions import CaptionError, caption_for
from lora_trainer.crops import Crop, centre_crop
from lora_trainer.disk import sha256_of_json
from lora_trainer.errors import TrainerError
from lora_trainer.faults import FileFault
from lora_trainer.fetch import FetchedDataset, is_caption, stem_of
from lora_trainer.pictures import Picture, PictureError, check_picture

# A message names this many files; the log names all.
_NAMED_FAULTS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One picture with its caption."""

    picture: Picture
    """The picture."""

    caption: str
    """Its caption, trigger word included."""

    crop: Crop
    """What of it is trained on, and at which size."""

    shuffled: tuple[str, ...] = ()
    """The caption with its parts in other orders; empty where captions are not shuffled."""

    may_flip: bool = False
    """Whether its mirror image is trained on too."""

    mirrored: bool = False
    """Whether this is the mirror image."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the pixels; samples of one shape fit in one batch."""
        return (self.picture.frames, self.crop.height, self.crop.width)

    @property
    def captions(self) -> tuple[str, ...]:
        """All wordings that training may ask for, the given one first."""
        return (self.caption, *self.shuffled)

    @property
    def sights(self) -> "tuple[Sample, ...]":
        """All that training may ask latents for: the sample, and its mirror image if allowed."""
        if not self.may_flip:
            return (self,)
        mirror = replace(self, crop=self.crop.mirrored(), may_flip=False, mirrored=True)
        return (replace(self, may_flip=False), mirror)

    def variant(self, number: int) -> "Sample":
        """One of the ways in which a step may see the sample.

        Args:
            number: At random, at least 0; the same number gives the same wording and side.

        Returns:
            A sample that has one caption, and is mirrored or not.
        """
        sights, captions = self.sights, self.captions
        side, order = number % len(sights), number // len(sights) % len(captions)
        return replace(sights[side], caption=captions[order], shuffled=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """All samples of a run."""

    training: list[Sample]
    """Those that gradients come from."""

    held_out: list[Sample]
    """Those that only the score sees."""

    digest: str
    """``sha256:...`` over pictures and captions."""

    warnings: list[str]
    """What a person should know: duplicates, captions without a picture."""

    repeats: int = 1
    """Times that each training sample is seen in an epoch."""

    skipped: tuple[FileFault, ...] = ()
    """Files that were left out because they can't be used, and why."""

    @property
    def samples(self) -> list[Sample]:
        """All samples, training first."""
        return [*self.training, *self.held_out]

    @property
    def epoch(self) -> list[Sample]:
        """What one pass over the dataset sees: each training sample, `repeats` times."""
        return self.training * self.repeats


def build_dataset(
    fetched: FetchedDataset,
    job: JobDocument,
    *,
    resolution: int,
    min_side_pixels: int,
    advance: Callable[[float, float], None],
) -> Dataset:
    """Check every file and split the dataset.

    Args:
        fetched: The files.
        job: The settings.
        resolution: Side of the training square in pixels.
        min_side_pixels: Shortest side of a picture.
        advance: Told pictures done and pictures in all.

    Raises:
        TrainerError: InvalidImages, InvalidCaptions, TooFewImages or TooManyImages; the message
            names all files that are at fault.
    """
    names = [name for name in fetched.names if not is_caption(name)]
    faults = [FileFault(name=name, text="is larger than 64 MiB") for name in fetched.oversized]
    by_stem = _captions_by_stem(fetched, faults)
    samples: list[Sample] = []
    for index, name in enumerate(names):
        sample = _check(
            name,
            by_stem.get(stem_of(name)),
            folder=fetched.folder,
            trigger_word=job.dataset.trigger_word,
            resolution=resolution,
            min_side_pixels=min_side_pixels,
            faults=faults,
        )
        if sample is not None:
            samples.append(sample)
        advance(index + 1, len(names))
    _raise_faults(faults, len(names) + len(fetched.oversized))
    _check_count(len(samples), job)
    warnings = _duplicates(samples)
    warnings += [f"{name}: a caption without a picture" for name in fetched.orphans]
    for warning in warnings:
        log.warning("dataset", finding=warning)
    training, held_out = split(samples, job.validation.held_out_images, job.optimization.seed)
    entries = sorted([sample.picture.digest, sample.caption] for sample in samples)
    return Dataset(
        training=training,
        held_out=held_out,
        digest=f"sha256:{sha256_of_json(entries)}",
        warnings=warnings,
    )


def split(samples: list[Sample], count: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Choose the held-out samples by content and seed, so that file names and order don't matter.

    Pictures that occur twice stay in training: a held-out copy would have been learned by heart.

    Args:
        samples: All of them.
        count: How many to hold out.
        seed: The run's seed.

    Returns:
        Training and held-out samples, both in order of their digests.

    Raises:
        TrainerError: TooFewImages; nothing would be left to train on.
    """
    if count and count >= len(samples):
        raise TrainerError(
            Reason.TOO_FEW_IMAGES,
            f"validation.heldOutImages is {count}, but there are only {len(samples)} pictures and "
            "at least one must be trained on; lower it or add pictures",
        )
    copies = Counter(sample.picture.digest for sample in samples)

    def rank(sample: Sample) -> tuple[bool, str]:
        key = f"{seed}:{sample.picture.digest}:{sample.caption}"
        return copies[sample.picture.digest] > 1, hashlib.sha256(key.encode()).hexdigest()

    chosen = {id(sample) for sample in sorted(samples, key=rank)[:count]}
    ordered = sorted(samples, key=lambda sample: (sample.picture.digest, sample.picture.name))
    return (
        [sample for sample in ordered if id(sample) not in chosen],
        [sample for sample in ordered if id(sample) in chosen],
    )


def _captions_by_stem(fetched: FetchedDataset, faults: list[FileFault]) -> dict[str, str]:
    """Each picture's caption file; of two (a.txt and a.TXT) nobody can say which is meant."""
    by_stem: dict[str, str] = {}
    for name in filter(is_caption, fetched.names):
        first = by_stem.setdefault(stem_of(name), name)
        if first != name:
            faults.append(
                FileFault(name=name, text=f"is a second caption beside {first}", is_caption=True)
            )
    return by_stem


def _check(
    name: str,
    caption_name: str | None,
    *,
    folder: Path,
    trigger_word: str | None,
    resolution: int,
    min_side_pixels: int,
    faults: list[FileFault],
) -> Sample | None:
    """Check one picture and its caption; what is wrong with either is added to the faults."""
    caption, picture = None, None
    try:
        path = folder / caption_name if caption_name else None
        caption = caption_for(path, trigger_word=trigger_word)
    except CaptionError as fault:
        faults.append(FileFault(name=caption_name or name, text=str(fault), is_caption=True))
    try:
        picture = check_picture(folder / name, name=name, min_side_pixels=min_side_pixels)
    except PictureError as fault:
        faults.append(FileFault(name=name, text=str(fault)))
    if caption is None or picture is None:
        return None
    if picture.converted:
        log.info("converted", file=name, what=picture.converted)
    crop = centre_crop(
        width=picture.width, height=picture.height, to_width=resolution, to_height=resolution
    )
    return Sample(picture=picture, caption=caption, crop=crop)


def _raise_faults(faults: list[FileFault], total: int) -> None:
    if not faults:
        return
    for fault in faults:
        log.error("bad file", file=fault.name, why=fault.text)
    bad_pictures = {fault.name for fault in faults if not fault.is_caption}
    reason = Reason.INVALID_IMAGES if bad_pictures else Reason.INVALID_CAPTIONS
    files = len({fault.name for fault in faults})
    named = "; ".join(str(fault) for fault in faults[:_NAMED_FAULTS])
    more = f"; and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
    raise TrainerError(
        reason,
        f"dataset.uri: {files} {'file' if files == 1 else 'files'} among {total} "
        f"{'picture' if total == 1 else 'pictures'} can't be used: {named}{more}. Repair or "
        "remove them",
    )


def _check_count(count: int, job: JobDocument) -> None:
    low, high = job.dataset.min_images, job.dataset.max_images
    if count < low:
        raise TrainerError(
            Reason.TOO_FEW_IMAGES,
            f"dataset.uri: {count} {'picture lies' if count == 1 else 'pictures lie'} under "
            f"{job.dataset.uri}, dataset.minImages is {low}; add pictures or lower "
            "dataset.minImages",
        )
    if count > high:
        raise TrainerError(
            Reason.TOO_MANY_IMAGES,
            f"dataset.uri: {count} pictures lie under {job.dataset.uri}, dataset.maxImages is "
            f"{high}; remove some or raise dataset.maxImages",
        )


def _duplicates(samples: list[Sample]) -> list[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        names[sample.picture.digest].append(sample.picture.name)
    return [f"{' = '.join(same)}: the same picture" for same in names.values() if len(same) > 1]
