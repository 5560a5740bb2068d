"""Latents and text embeddings, computed once and kept under the hash of what they come from.

A module of its own because it is what lets the encoders leave before training: a restart, or
another job in the same workspace, finds everything here and loads no encoder at all.
"""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from lora_api.reasons import Reason
from lora_trainer import log
from lora_trainer.basemodel import BaseModel
from lora_trainer.dataset import Sample
from lora_trainer.disk import sha256_of_json, write_bytes
from lora_trainer.errors import TrainerError
from lora_trainer.pictures import load_square
from lora_trainer.progress import Advance
from lora_trainer.recipes import Conditioning, Recipe
from lora_trainer.stopping import StopFlag

# Entries held in memory: a few hundred megabytes at 512 pixels, however large the dataset is.
_HELD_ENTRIES = 1024


class Cache:
    """Reads and names cache entries.

    Args:
        folder: Where they lie.
        base: The base model; its digests are part of every name.
        resolution: Side of the training square in pixels.
    """

    def __init__(self, folder: Path, base: BaseModel, *, resolution: int) -> None:
        self._folder = folder
        self._base = base
        self._resolution = resolution
        self._load = lru_cache(maxsize=_HELD_ENTRIES)(load_file)

    def moments_path(self, sample: Sample) -> Path:
        """Where a picture's latents lie."""
        parts = {
            "picture": sample.picture.digest,
            "resolution": self._resolution,
            "encoder": self._base.digests["vae"],
        }
        return self._folder / "latents" / f"{sha256_of_json(parts)}.safetensors"

    def text_path(self, text: str) -> Path:
        """Where a text's embedding lies."""
        encoders = {
            name: digest
            for name, digest in self._base.digests.items()
            if name.startswith(("text_encoder", "tokenizer"))
        }
        name = sha256_of_json({"text": text, "encoders": encoders})
        return self._folder / "text" / f"{name}.safetensors"

    def moments(self, sample: Sample) -> torch.Tensor:
        """[2 * channels, h, w] float32."""
        return self._load(self.moments_path(sample))["moments"]

    def text(self, text: str) -> Conditioning:
        """Conditioning without a batch axis."""
        return self._load(self.text_path(text))


def fill_cache(
    cache: Cache,
    recipe: Recipe,
    *,
    samples: list[Sample],
    texts: list[tuple[str, str]],
    resolution: int,
    device: torch.device,
    stop: StopFlag,
    advance: Advance,
) -> None:
    """Compute what is not there yet; an encoder is loaded only if it has work, then freed.

    Args:
        cache: Where entries go.
        recipe: Loads the encoders.
        samples: Pictures to encode.
        texts: Pairs of text and where it comes from, for the warning when it is too long.
        resolution: Side of the training square in pixels.
        device: Where the encoders run.
        stop: A stop ends the stage between two entries.
        advance: Told entries done and entries in all.
    """
    new_texts = _missing(dict(texts), cache)
    new_samples = [sample for sample in samples if not cache.moments_path(sample).exists()]
    total = len(new_texts) + len(new_samples)
    done = 0
    if new_texts:
        encoder = recipe.load_text_encoder(device=device)
        for text, where in new_texts:
            stop.check("encoding captions")
            cut = encoder.truncated(text)
            if cut is not None:
                log.warning("too long for the text encoder", where=where, not_seen=cut)
            _save(cache.text_path(text), encoder.encode([text])[0])
            done += 1
            advance(done, total)
        del encoder
    if new_samples:
        vae = recipe.load_picture_encoder(device=device)
        for sample in new_samples:
            stop.check("encoding pictures")
            moments = vae.encode(_pixels(sample, resolution))[0]
            if not bool(moments.isfinite().all()):
                raise TrainerError(
                    Reason.BASE_MODEL_INVALID,
                    f"baseModel.uri: the VAE makes numbers that are not finite of "
                    f"{sample.picture.name}; use a base model with another VAE",
                )
            _save(cache.moments_path(sample), {"moments": moments})
            done += 1
            advance(done, total)
        del vae
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _missing(texts: dict[str, str], cache: Cache) -> list[tuple[str, str]]:
    return [(text, where) for text, where in texts.items() if not cache.text_path(text).exists()]


def _pixels(sample: Sample, resolution: int) -> torch.Tensor:
    square = load_square(sample.picture.path, resolution=resolution)
    pixels = torch.from_numpy(square.copy()).permute(2, 0, 1)[None]
    return pixels.float() / 127.5 - 1.0


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    plain = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    # The library, writing a file itself, reports a full disk in words that only it knows.
    write_bytes(path, save(plain))
