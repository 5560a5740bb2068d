"""From fetched files to a checked dataset.

A module of its own because all faults of all files must come out together, whichever stage found
them, and be either the end of the run or a list of what was left out.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lora_api.reasons import Reason
from lora_api.recipes import RECIPES
from lora_api.settings import InvalidFiles
from lora_trainer import log
from lora_trainer.buckets import fit
from lora_trainer.captions import CaptionError, caption_for, orders_of, read_caption
from lora_trainer.clips import check_clip, clip_format
from lora_trainer.dataset import Dataset, Sample, digest_of, split
from lora_trainer.errors import TrainerError
from lora_trainer.faults import FileFault
from lora_trainer.fetch_dataset import FetchedDataset, is_caption, stem_of
from lora_trainer.lookalikes import near_duplicates
from lora_trainer.metadata import read_metadata
from lora_trainer.pictures import Bounds, Picture, PictureError, check_picture
from lora_trainer.plan import Plan
from lora_trainer.progress import Advance
from lora_trainer.stopping import StopFlag

# A message, or a warning, names this many files; the log names all.
_NAMED = 12
# Decoding runs without Python's lock; what each thread frees, the C library keeps for it.
_THREADS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What one file turned out to be."""

    sample: Sample | None = None
    faults: tuple[FileFault, ...] = ()


def build_dataset(
    fetched: FetchedDataset, plan: Plan, *, stop: StopFlag, advance: Advance
) -> Dataset:
    """Check every file and split the dataset.

    Args:
        fetched: The files.
        plan: The job's settings with their defaults.
        stop: A stop ends the stage between two files.
        advance: Told pictures done and pictures in all.

    Raises:
        TrainerError: InvalidImages, InvalidCaptions, TooFewImages or TooManyImages; the message
            names the files that are at fault.
    """
    words, faults = _words(fetched)
    faults = [*fetched.faults, *faults]
    samples: list[Sample] = []
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="check")
    try:
        checked = pool.map(
            lambda name: _check(name, words.get(name), fetched, plan), fetched.pictures
        )
        for index, found in enumerate(checked):
            stop.check("checking pictures")
            samples += [found.sample] if found.sample else []
            faults += found.faults
            advance(index + 1, len(fetched.pictures))
    finally:
        pool.shutdown(cancel_futures=True)
    total = len(fetched.pictures) + len(fetched.faults)
    skipping = plan.job.dataset.on_invalid_files is InvalidFiles.SKIP
    _tell_faults(faults, fetched, total=total, skipping=skipping)
    _check_count(len(samples), faults, fetched, plan)
    warnings = [*_duplicates(samples), *_oddities(samples, fetched, words)]
    for warning in warnings:
        log.warning("dataset", finding=warning)
    training, held_out = split(
        samples, plan.job.validation.held_out_images, plan.job.optimization.seed
    )
    return Dataset(
        training=training,
        held_out=held_out,
        digest=digest_of(samples),
        warnings=warnings,
        repeats=plan.job.dataset.repeats,
        skipped=tuple(faults),
    )


def _words(fetched: FetchedDataset) -> tuple[dict[str, str], list[FileFault]]:
    """What caption files and metadata say, by picture; of two nobody can say which is meant.

    A caption that can't be used is the empty text: its fault is known, and the picture must not
    get another caption instead.
    """
    given: dict[str, tuple[str, str]] = {}  # picture to caption and the file that has it
    faults: list[FileFault] = []

    def add(picture: str, caption: str, source: str) -> None:
        first = given.setdefault(picture, (caption, source))[1]
        if first != source:
            text = f"is a second caption of {picture} beside {first}"
            faults.append(FileFault(name=source, text=text, is_caption=True))

    by_stem = defaultdict(list)
    for picture in fetched.pictures:
        by_stem[stem_of(picture)].append(picture)
    for name in fetched.captions:
        try:
            caption = read_caption(fetched.folder / name)
        except CaptionError as fault:
            faults.append(FileFault(name=name, text=str(fault), is_caption=True))
            caption = ""
        for picture in by_stem[stem_of(name)]:
            add(picture, caption, name)
    too_long = [fault.name for fault in fetched.faults if is_caption(fault.name)]
    for name in too_long:
        for picture in by_stem[stem_of(name)]:
            add(picture, "", name)
    for name in fetched.metadata:
        captions, wrong = read_metadata(fetched.folder / name, name=name)
        faults += wrong
        for picture, caption in captions.items():
            add(picture, caption, name)
    return {picture: caption for picture, (caption, _) in given.items()}, faults


def _check(name: str, given: str | None, fetched: FetchedDataset, plan: Plan) -> _Found:
    """Check one picture and its caption."""
    settings = plan.job.dataset
    faults = []
    caption, picture = "", None
    if given != "":
        try:
            caption = caption_for(given, settings)
        except CaptionError as fault:
            faults.append(FileFault(name=name, text=str(fault), is_caption=True))
    try:
        picture = _check_file(name, fetched, plan)
    except PictureError as fault:
        faults.append(FileFault(name=name, text=str(fault)))
    if not caption or picture is None:
        return _Found(faults=tuple(faults))
    if picture.converted:
        log.info("converted", file=name, what=picture.converted)
    crop = fit(
        picture.width,
        picture.height,
        resolution=plan.resolution,
        step=RECIPES[plan.job.recipe].bucket_step,
        keep_shape=settings.aspect_buckets,
    )
    orders = orders_of(caption, keep=settings.keep_tags) if settings.shuffle_captions else ()
    return _Found(
        sample=Sample(
            picture=picture,
            caption=caption,
            crop=crop,
            shuffled=orders,
            may_flip=settings.flip,
        )
    )


def _check_file(name: str, fetched: FetchedDataset, plan: Plan) -> Picture:
    recipe = plan.job.recipe
    path = fetched.folder / name
    bounds = Bounds(
        min_file_bytes=plan.job.dataset.min_file_bytes,
        min_side_pixels=max(plan.min_side_pixels, RECIPES[recipe].bucket_step),
    )
    if clip_format(path) is None:
        return check_picture(path, name=name, bounds=bounds)
    if RECIPES[recipe].frames == 1:
        raise PictureError(f"is a video; {recipe} trains on pictures alone")
    frames = plan.job.dataset.frames or RECIPES[recipe].frames
    return check_clip(path, name=name, frames=frames, bounds=bounds)


def _tell_faults(
    faults: list[FileFault], fetched: FetchedDataset, *, total: int, skipping: bool
) -> None:
    """Log every fault; raise them where nothing may be left out."""
    if not faults:
        return
    for fault in faults:
        say = log.warning if skipping else log.error
        say("left out" if skipping else "bad file", file=fault.name, why=fault.text)
    if skipping:
        return
    only_words = all(fault.is_caption for fault in faults)
    files = len({fault.name for fault in faults})
    raise TrainerError(
        Reason.INVALID_CAPTIONS if only_words else Reason.INVALID_IMAGES,
        f"{fetched.field}: {files} {'file' if files == 1 else 'files'} among {total} "
        f"{'picture' if total == 1 else 'pictures'} can't be used: {_listed(faults, fetched)}. "
        "Repair or remove them, or set dataset.onInvalidFiles: Skip",
    )


def _listed(faults: list[FileFault], fetched: FetchedDataset) -> str:
    named = [f"{fetched.labels.get(fault.name, fault.name)} {fault.text}" for fault in faults]
    more = f"; and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"{'; '.join(named[:_NAMED])}{more}"


def _check_count(count: int, faults: list[FileFault], fetched: FetchedDataset, plan: Plan) -> None:
    settings = plan.job.dataset
    left_out = f" that can be used (left out: {_listed(faults, fetched)})" if faults else ""
    if count < settings.min_images:
        raise TrainerError(
            Reason.TOO_FEW_IMAGES,
            f"{fetched.field}: {count} {'picture lies' if count == 1 else 'pictures lie'} "
            f"{fetched.where}{left_out}, dataset.minImages is {settings.min_images}; add pictures "
            "or lower dataset.minImages",
        )


def _duplicates(samples: list[Sample]) -> list[str]:
    """Pictures that are there more than once, or nearly so."""
    names: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        names[sample.picture.digest].append(sample.picture.name)
    exact = [f"{_equal(same)}: the same picture" for same in names.values() if len(same) > 1]
    first = {sample.picture.digest: sample.picture for sample in reversed(samples)}
    single = [picture for picture in first.values() if picture.likeness is not None]
    groups = near_duplicates([picture.likeness for picture in single if picture.likeness])
    near = [
        f"{_equal([single[index].name for index in group])}: nearly the same picture"
        for group in groups
    ]
    return _bounded(exact) + _bounded(near)


def _oddities(samples: list[Sample], fetched: FetchedDataset, words: dict[str, str]) -> list[str]:
    """What a person should know, though the run can go on."""
    pictures = set(fetched.pictures) | {fault.name for fault in fetched.faults}
    orphans = [f"{name}: a caption without a picture" for name in fetched.orphans]
    orphans += [
        f"{name}: metadata.jsonl has a caption of it, but it is not there"
        for name in sorted(words.keys() - pictures)
    ]
    misnamed = [
        f"{sample.picture.name}: holds {sample.picture.misnamed}"
        for sample in samples
        if sample.picture.misnamed
    ]
    return _bounded(orphans) + _bounded(misnamed)


def _equal(names: list[str]) -> str:
    more = f" = {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{' = '.join(sorted(names)[:_NAMED])}{more}"


def _bounded(warnings: list[str]) -> list[str]:
    """The first hundred: a report must stay readable where ten thousand files are odd."""
    if len(warnings) <= 100:
        return warnings
    return [*warnings[:100], f"{len(warnings) - 100} more of this kind"]
