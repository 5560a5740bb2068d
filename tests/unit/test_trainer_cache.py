"""What is computed once: names by content, damage found, memory bounded, encoders let go."""

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.datasets import a_dataset, never

from lora_api.reasons import Reason
from lora_trainer.basemodel import BaseModel
from lora_trainer.cache import CACHE_VERSION, Cache, as_input, fill_cache
from lora_trainer.dataset import Dataset, Sample
from lora_trainer.entries import HeldEntries, read_entry, write_entry
from lora_trainer.errors import TrainerError
from lora_trainer.pixels import load_pixels
from lora_trainer.recipes import Recipe
from lora_trainer.stopping import StopFlag


class Encoders:
    """A family whose latents are mean colours, and whose embeddings are lengths; it counts."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.alive: list[weakref.ref[object]] = []

    def load_text_encoder(self, *, device: torch.device) -> object:
        return self._loaded(_Text(self.encoded))

    def load_picture_encoder(self, *, device: torch.device) -> object:
        return self._loaded(_Pictures(self.encoded))

    def _loaded(self, encoder: object) -> object:
        self.alive.append(weakref.ref(encoder))
        return encoder


class _Text:
    def __init__(self, encoded: list[str]) -> None:
        self._encoded = encoded

    def encode(self, texts: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        self._encoded += texts
        return [{"hidden_states": torch.full((3, 2), float(len(text)))} for text in texts]

    def truncated(self, text: str) -> str | None:
        return None


class _Pictures:
    def __init__(self, encoded: list[str]) -> None:
        self._encoded = encoded

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self._encoded.append("picture")
        return pixels[..., ::8, ::8].repeat(1, 2, *([1] * (pixels.dim() - 2)))


def _cache(
    folder: Path, *, vae: str = "v", recipe: str = "sd15", held_bytes: int = 1 << 20
) -> Cache:
    base = BaseModel(
        folder=folder,
        configs={},
        variants={},
        digests={"vae": vae, "text_encoder": "t", "tokenizer": "k", "unet": "u"},
        digest="sha256:x",
    )
    return Cache(folder / "cache", base, recipe=recipe, held_bytes=held_bytes)


def _fill(cache: Cache, dataset: Dataset) -> Encoders:
    encoders = Encoders()
    fill_cache(
        cache,
        cast(Recipe, encoders),
        samples=dataset.samples,
        texts=[(sample.caption, sample.picture.name) for sample in dataset.samples],
        video=False,
        device=torch.device("cpu"),
        stop=StopFlag(),
        advance=never,
    )
    return encoders


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two pictures with a caption each, and their mirror images."""
    asked = a_dataset(tmp_path).with_pictures(2).having(flip=True)
    (asked.folder / "p1.txt").write_text("a zorp on grass")
    return asked.checked()


def test_a_second_run_computes_nothing_and_loads_no_encoder(
    dataset: Dataset, tmp_path: Path
) -> None:
    first = _fill(_cache(tmp_path), dataset)
    assert sorted(first.encoded) == ["a zorp on grass", *["picture"] * 4, "zorp"]
    assert _fill(_cache(tmp_path), dataset).alive == []


def test_no_encoder_is_alive_when_training_begins(dataset: Dataset, tmp_path: Path) -> None:
    encoders = _fill(_cache(tmp_path), dataset)
    gc.collect()
    assert [reference() for reference in encoders.alive] == [None, None]


def test_latents_of_a_mirror_image_are_of_mirrored_pixels(dataset: Dataset, tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    _fill(cache, dataset)
    plain, mirror = dataset.training[0].sights
    expected = as_input(load_pixels(plain)[:, :, ::-1].copy(), video=False)
    assert torch.equal(as_input(load_pixels(mirror), video=False), expected)
    assert not torch.equal(cache.moments(plain), cache.moments(mirror))


OTHERS: dict[str, Callable[[Sample], Sample]] = {
    "another picture": lambda one: replace(one, picture=replace(one.picture, digest="other")),
    "another crop": lambda one: replace(one, crop=replace(one.crop, left=one.crop.left + 1)),
    "the mirror image": lambda one: one.sights[1],
    "more frames": lambda one: replace(one, picture=replace(one.picture, frames=5)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_latents_are_named_by_all_that_they_come_from(
    name: str, dataset: Dataset, tmp_path: Path
) -> None:
    cache, sample = _cache(tmp_path), dataset.training[0]
    assert cache.moments_path(OTHERS[name](sample)) != cache.moments_path(sample)
    assert _cache(tmp_path, vae="w").moments_path(sample) != cache.moments_path(sample)
    renamed = replace(sample, picture=replace(sample.picture, name="b.png"), caption="other")
    assert cache.moments_path(renamed) == cache.moments_path(sample)


def test_another_recipe_finds_none_of_what_this_one_encoded(
    dataset: Dataset, tmp_path: Path
) -> None:
    _fill(_cache(tmp_path), dataset)
    other = _fill(_cache(tmp_path, recipe="sdxl"), dataset)
    assert sorted(other.encoded) == ["a zorp on grass", *["picture"] * 4, "zorp"]


def test_other_code_finds_none_of_what_this_one_encoded(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(_cache(tmp_path), dataset)
    monkeypatch.setattr("lora_trainer.cache.CACHE_VERSION", CACHE_VERSION + 1)
    other = _fill(_cache(tmp_path), dataset)
    assert sorted(other.encoded) == ["a zorp on grass", *["picture"] * 4, "zorp"]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[:-5],
    "empty": lambda _: b"",
    "zeros": lambda data: bytes(len(data)),
    "one bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "no JSON in the header": lambda data: data[:8] + b"!" + data[9:],
    "a header of enormous size": lambda data: b"\xff" * 8 + data[8:],
    "without a checksum": lambda data: data.replace(b"crc32", b"crc23"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_computed_again(name: str, dataset: Dataset, tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    _fill(cache, dataset)
    path = cache.moments_path(dataset.training[0])
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[name](whole))
    assert _fill(_cache(tmp_path), dataset).encoded == ["picture"]
    assert path.read_bytes() == whole


def test_an_entry_that_is_damaged_while_it_is_used_asks_for_another_attempt(
    dataset: Dataset, tmp_path: Path
) -> None:
    cache = _cache(tmp_path)
    _fill(cache, dataset)
    cache.moments_path(dataset.training[0]).write_bytes(b"")
    with pytest.raises(TrainerError, match="damaged while it was in use") as caught:
        cache.moments(dataset.training[0])
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    assert caught.value.retryable


def test_an_entry_keeps_its_number_formats(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "half": torch.ones(3, 2, dtype=torch.bfloat16),
        "mask": torch.tensor([1, 0]),
        "one": torch.tensor(2.5),
    }
    write_entry(tmp_path / "a", tensors)
    read = read_entry(tmp_path / "a")
    assert read is not None
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert read["half"].dtype is torch.bfloat16


def test_memory_holds_the_entries_used_last_up_to_its_bytes() -> None:
    reads: list[str] = []

    def read(path: Path) -> dict[str, torch.Tensor]:
        reads.append(path.name)
        return {"a": torch.zeros(250)}  # 1000 bytes

    held = HeldEntries(2500)
    for name in ("a", "b", "a", "c", "a", "b"):
        held.get(Path(name), read)
    assert reads == ["a", "b", "c", "b"]


_PEAK = """
import json, os, resource, sys, torch
from pathlib import Path
from lora_trainer.entries import HeldEntries, read_entry, write_entry
folder = Path(sys.argv[1])
write_entry(folder / "0", {"moments": torch.zeros(2048)})
for number in range(1, 10_000):
    os.link(folder / "0", folder / str(number))
peaks = []
for count in (10, 10_000):
    held = HeldEntries(1 << 20)
    for number in range(count):
        held.get(folder / str(number), read_entry)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_from_ten_to_ten_thousand_entries(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PEAK, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    few_kib, many_kib = json.loads(said)
    # All of them would be 80 MB; one MiB is held, the rest is the allocator's.
    assert many_kib - few_kib < 8 * 1024
