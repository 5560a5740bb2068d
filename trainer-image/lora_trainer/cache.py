"""Latents and text embeddings, computed once and kept under the hash of what they come from.

A module of its own because it is what lets the encoders leave before training: a restart, or
another job in the same workspace, finds everything here and loads no encoder at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.ahead import made_ahead
from lora_trainer.basemodel import BaseModel
from lora_trainer.dataset import Sample
from lora_trainer.disk import sha256_of_json
from lora_trainer.entries import HeldEntries, Tensors, read_entry, write_entry
from lora_trainer.errors import TrainerError
from lora_trainer.pixels import load_pixels
from lora_trainer.progress import Advance
from lora_trainer.recipes import Conditioning, Recipe
from lora_trainer.release import release
from lora_trainer.stopping import StopFlag

if TYPE_CHECKING:
    import numpy as np

# Held in memory: all of a usual dataset (20 pictures for FLUX at 1024 pixels take about 200 MB),
# and no more for ten thousand pictures, which then come from the disk's own cache in under 1 ms.
HELD_BYTES = 256 << 20
_DECODING_THREADS = 2
# Part of every name. Add one where the same picture or text comes out otherwise than before: other
# pixels, tokens, layers or number formats, here or in a recipe's encoders. Old entries lie unused.
CACHE_VERSION = 2


class Cache:
    """Reads and names cache entries.

    Args:
        folder: Where they lie.
        base: The base model; its digests are part of every name. They cover the weights and the
            settings beside them.
        recipe: Name of the family, whose encoders may use the same weights in another way.
        held_bytes: Most bytes of entries that are kept in memory.
    """

    def __init__(
        self, folder: Path, base: BaseModel, *, recipe: str, held_bytes: int = HELD_BYTES
    ) -> None:
        self._folder = folder
        self._base = base
        self._code = {"recipe": recipe, "version": CACHE_VERSION}
        self._held = HeldEntries(held_bytes)

    def moments_path(self, sample: Sample) -> Path:
        """Where the latents of a sample lie, as it is: mirrored or not."""
        parts = {
            "picture": sample.picture.digest,
            "frames": sample.picture.frames,
            "crop": asdict(sample.crop),
            "mirrored": sample.mirrored,
            "encoder": self._base.digests["vae"],
        }
        return self._folder / "latents" / f"{sha256_of_json(self._code | parts)}.safetensors"

    def text_path(self, text: str) -> Path:
        """Where a text's embedding lies."""
        encoders = {
            name: digest
            for name, digest in self._base.digests.items()
            if name.startswith(("text_encoder", "tokenizer"))
        }
        name = sha256_of_json(self._code | {"text": text, "encoders": encoders})
        return self._folder / "text" / f"{name}.safetensors"

    def moments(self, sample: Sample) -> torch.Tensor:
        """[2 * channels, h, w] or [2 * channels, frames, h, w], float32."""
        return self._held.get(self.moments_path(sample), _read)["moments"]

    def text(self, text: str) -> Conditioning:
        """Conditioning without a batch axis."""
        return self._held.get(self.text_path(text), _read)


def fill_cache(
    cache: Cache,
    recipe: Recipe,
    *,
    samples: Sequence[Sample],
    texts: Sequence[tuple[str, str]],
    video: bool,
    device: torch.device,
    stop: StopFlag,
    advance: Advance,
) -> None:
    """Compute what is not there whole; an encoder is loaded only if it has work, then freed.

    Args:
        cache: Where entries go.
        recipe: Loads the encoders.
        samples: Pictures and clips to encode, with their mirror images where they may be seen.
        texts: Pairs of text and where it comes from, for the warning when it is too long.
        video: Whether the family's encoder wants an axis of frames.
        device: Where the encoders run.
        stop: A stop ends the stage between two entries.
        advance: Told entries done and entries in all.
    """
    new_texts = [
        (text, where) for text, where in dict(texts).items() if _lacks(cache.text_path(text))
    ]
    by_path = {cache.moments_path(sight): sight for sample in samples for sight in sample.sights}
    new_samples = [sight for path, sight in by_path.items() if _lacks(path)]
    total = len(new_texts) + len(new_samples)
    if new_texts:
        for done, (text, embedding) in enumerate(_encoded_texts(recipe, new_texts, device), 1):
            write_entry(cache.text_path(text), embedding)
            advance(done, total)
            stop.check("encoding captions")
        release(device)
    if new_samples:
        made = _encoded_samples(recipe, new_samples, device, video=video)
        for done, (sample, moments) in enumerate(made, 1 + len(new_texts)):
            write_entry(cache.moments_path(sample), {"moments": moments.float()})
            advance(done, total)
            stop.check("encoding pictures")
        release(device)


def _encoded_texts(
    recipe: Recipe, texts: list[tuple[str, str]], device: torch.device
) -> Iterator[tuple[str, Conditioning]]:
    """One at a time, so that an embedding does not depend on what else was missing."""
    encoder = recipe.load_text_encoder(device=device)
    for text, where in texts:
        cut = encoder.truncated(text)
        if cut is not None:
            log.warning("too long for the text encoder", where=where, not_seen=cut)
        yield text, encoder.encode([text])[0]


def _encoded_samples(
    recipe: Recipe, samples: list[Sample], device: torch.device, *, video: bool
) -> Iterator[tuple[Sample, torch.Tensor]]:
    vae = recipe.load_picture_encoder(device=device)

    def decode(number: int) -> torch.Tensor:
        return as_input(load_pixels(samples[number]), video=video)

    numbers = range(len(samples))
    with made_ahead(decode, numbers, threads=_DECODING_THREADS) as decoded:
        for sample, pixels in zip(samples, decoded, strict=True):
            moments = vae.encode(pixels)[0]
            if not bool(moments.isfinite().all()):
                raise TrainerError(
                    Reason.BASE_MODEL_INVALID,
                    f"baseModel.uri: the VAE makes numbers that are not finite of "
                    f"{sample.picture.name}; use a base model with another VAE",
                )
            yield sample, moments


def as_input(pixels: "np.ndarray", *, video: bool) -> torch.Tensor:
    """What a picture encoder takes.

    Args:
        pixels: uint8 [frames, height, width, 3].
        video: Whether the encoder wants an axis of frames.

    Returns:
        [1, 3, height, width], or [1, 3, frames, height, width], float32 in -1..1.
    """
    frames = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None]
    return (frames if video else frames[:, :, 0]).float() / 127.5 - 1.0


def _lacks(path: Path) -> bool:
    return not path.exists() or read_entry(path) is None


def _read(path: Path) -> Tensors:
    """An entry that was whole when the training began."""
    tensors = read_entry(path)
    if tensors is None:
        raise TrainerError(
            Reason.CHECKSUM_MISMATCH,
            f"the workspace's {path} was damaged while it was in use; the next attempt computes "
            "it anew. If it happens again, check the disk",
        )
    return tensors
