"""Pictures, clips and datasets in sentences: `a_dataset(tmp_path).with_pictures(3).checked()`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from PIL import Image

from lora_api.job import JobDocument
from lora_trainer.checking import build_dataset
from lora_trainer.dataset import Dataset
from lora_trainer.errors import TrainerError
from lora_trainer.fetch_dataset import FetchedDataset, fetch_dataset
from lora_trainer.plan import make_plan
from lora_trainer.stopping import StopFlag


def a_picture(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    """Patches of colour; pictures of different seeds are not alike."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.NEAREST)


def write_clip(
    path: Path,
    *,
    frames: int,
    rate: int = 16,
    width: int = 96,
    height: int = 64,
    kind: str = "mp4",
) -> Path:
    """A film whose frame n has the grey value 10 n."""
    codec = "libvpx" if kind == "webm" else "mpeg4"
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(frames):
            grey = np.full((height, width, 3), 10 * number % 250, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def never(_done: float, _total: float) -> None:
    """Where nobody wants to know how far it is."""


@dataclass(frozen=True)
class ADataset:
    """A folder of files, and what a job says of them."""

    root: Path
    settings: dict[str, Any] = field(
        default_factory=lambda: {"triggerWord": "zorp", "minFileBytes": 0, "minImages": 1}
    )
    recipe: str = "sd15"
    resolution: int = 64
    held_out: int = 0

    @property
    def folder(self) -> Path:
        """Where its files are put together."""
        folder = self.root / "there"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def here(self) -> Path:
        """Where they are fetched to."""
        return self.root / "workspace" / "dataset"

    def having(self, **settings: object) -> Self:
        return replace(self, settings={**self.settings, **settings})

    def of(self, recipe: str, resolution: int) -> Self:
        return replace(self, recipe=recipe, resolution=resolution)

    def with_pictures(self, count: int, *, width: int = 96, height: int = 96) -> Self:
        for seed in range(count):
            a_picture(seed, width, height).save(self.folder / f"p{seed}.png")
        return self

    def job(self) -> JobDocument:
        source = {} if "uris" in self.settings else {"uri": f"file://{self.folder}"}
        return JobDocument.model_validate(
            {
                "name": "test",
                "recipe": self.recipe,
                "baseModel": {"uri": "file:///base"},
                "dataset": {**source, **self.settings},
                "optimization": {"resolution": self.resolution, "seed": 7},
                "validation": {"heldOutImages": self.held_out},
                "output": {"uri": "file:///output"},
            }
        )

    def fetched(self) -> FetchedDataset:
        return fetch_dataset(self.job().dataset, self.here, stop=StopFlag(), advance=never)

    def checked(self) -> Dataset:
        plan = make_plan(self.job())
        return build_dataset(self.fetched(), plan, stop=StopFlag(), advance=never)

    def refusal(self) -> TrainerError:
        """How it is refused; a test fails where it is not."""
        try:
            self.checked()
        except TrainerError as error:
            return error
        raise AssertionError("the dataset was not refused")


def a_dataset(root: Path) -> ADataset:
    """An empty folder, for pictures of 64 pixels."""
    return ADataset(root)
