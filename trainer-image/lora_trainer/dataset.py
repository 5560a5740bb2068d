"""Samples, and which of them are trained on or held out.

A module of its own because everything after the checks sees a dataset this way, and nothing of how
it was fetched and checked.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace

from lora_api.reasons import Reason
from lora_trainer.crops import Crop
from lora_trainer.disk import sha256_of_json
from lora_trainer.errors import TrainerError
from lora_trainer.faults import FileFault
from lora_trainer.pictures import Picture


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
    def epoch_size(self) -> int:
        """Samples in one pass over the dataset: each that is trained on, `repeats` times."""
        return len(self.training) * self.repeats


def digest_of(samples: list[Sample]) -> str:
    """``sha256:...`` over pictures and captions, whatever their names and order.

    Args:
        samples: All of them.
    """
    entries = sorted([sample.picture.digest, sample.caption] for sample in samples)
    return f"sha256:{sha256_of_json(entries)}"


def split(samples: list[Sample], count: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Choose the held-out samples by content and seed, so that file names and order don't matter.

    Pictures that occur twice stay in training: a held-out copy would have been learned by heart.

    Args:
        samples: All of them.
        count: How many to hold out.
        seed: The run's seed.

    Returns:
        Training and held-out samples, both in order of their digests; the latter are only seen
        as they are.

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
        [
            replace(sample, may_flip=False, shuffled=())
            for sample in ordered
            if id(sample) in chosen
        ],
    )
