"""What is trained: the work that every trainer gets alike.

A module of its own because the comparison is only as fair as its inputs: one folder of pictures
in each of the trainers' spellings, one base model in the layout that all of them read.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.trainer.models import ROOT, SMALL_BASE, miniature, published
from PIL import Image

__all__ = ["ROOT", "SMALL_BASE", "Pictures", "Scenario", "prepare_pictures", "scenarios"]

PICTURES = ROOT / "examples" / "quickstart" / "dataset"
# A long run's ends (start, saving, samples) count as little as they do in use.
LONG_STEPS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One training that is done by each trainer."""

    name: str
    """Its name in the table."""

    base: Callable[[], Path]
    """Makes the base model in diffusers layout, unless it is there, and says where."""

    resolution: int
    """Side of the training square in pixels."""

    batch_size: int
    """Pictures per step."""

    steps: int
    """Optimiser steps."""

    recipe: str = "sd15"
    """The family."""

    precision: str = "fp32"
    """fp32, or bf16 under autocast with the LoRA in fp32."""

    checkpointing: bool = False
    """Whether activations are computed again in the backward pass."""

    published_size: bool = True
    """Whether the model has its published shape, the only one that sd-scripts can load."""

    needs_gpu: bool = False
    """Whether it is left out where there is none."""

    alone: bool = False
    """Whether only ours runs it, once: it shows where a long run's time goes."""

    rank: int = 16
    """Rank and alpha of the LoRA."""


def scenarios(folder: Path, *, small_steps: int, full_steps: int, tiny: bool) -> list[Scenario]:
    """Two for any machine, and the published architectures for one with a GPU.

    Args:
        folder: Where models are kept between runs.
        small_steps: Steps on the small base model; 0 leaves it out.
        full_steps: Steps at SD 1.5's size without a GPU; 0 leaves it out.
        tiny: The GPU's scenarios alone, with miniatures, to see on any machine that they run.
    """
    if tiny:
        return [_tiny(one, folder) for one in _gpu_scenarios(folder)]
    sd15 = partial(published, "sd15", folder / "sd15-random")
    found = []
    if small_steps:
        found.append(
            Scenario(
                name="small base, 64 px, batch 8",
                base=lambda: SMALL_BASE,
                resolution=64,
                batch_size=8,
                steps=small_steps,
                published_size=False,
            )
        )
    if full_steps:
        found.append(
            Scenario(
                name="SD 1.5 size, 128 px",
                base=sd15,
                resolution=128,
                batch_size=1,
                steps=full_steps,
            )
        )
    return found + _gpu_scenarios(folder)


def _gpu_scenarios(folder: Path) -> list[Scenario]:
    def on_gpu(name: str, recipe: str, resolution: int, **more: int | bool) -> Scenario:
        values = {"batch_size": 1, "steps": 40} | more
        return Scenario(
            name=name,
            recipe=recipe,
            base=partial(published, recipe, folder / f"{recipe}-random"),
            resolution=resolution,
            precision="bf16",
            needs_gpu=True,
            **values,  # type: ignore[arg-type]
        )

    return [
        on_gpu("SD 1.5 size, 512 px, bf16", "sd15", 512),
        on_gpu("SD 1.5 size, 512 px, bf16, batch 4", "sd15", 512, batch_size=4),
        on_gpu("SDXL size, 1024 px, bf16", "sdxl", 1024),
        on_gpu("SDXL size, 1,000 steps", "sdxl", 1024, steps=LONG_STEPS, alone=True),
        on_gpu("FLUX size, 512 px, bf16, checkpointing", "flux", 512, checkpointing=True),
        on_gpu("WAN 1.3B size, 480 px, bf16", "wan", 480),
    ]


def _tiny(scenario: Scenario, folder: Path) -> Scenario:
    return Scenario(
        name=f"{scenario.name} (miniature)",
        recipe=scenario.recipe,
        base=partial(miniature, scenario.recipe, folder / f"{scenario.recipe}-miniature"),
        resolution=64,
        batch_size=scenario.batch_size,
        steps=4,
        precision=scenario.precision,
        checkpointing=scenario.checkpointing,
        published_size=False,
        alone=scenario.alone,
    )


@dataclass(frozen=True, slots=True)
class Pictures:
    """The same pictures and captions in the spellings that the trainers read."""

    with_texts: Path
    """A .txt file beside each picture."""

    with_metadata: Path
    """One metadata.jsonl for all, as the `datasets` library reads it."""

    alone: Path
    """Nothing but pictures."""


def prepare_pictures(folder: Path, *, side: int) -> Pictures:
    """Copy the quickstart's pictures.

    Args:
        folder: Made anew.
        side: Pictures are made at least this large, so that no trainer has to.
    """
    shutil.rmtree(folder, ignore_errors=True)
    found = Pictures(folder / "texts", folder / "metadata", folder / "alone")
    for place in (found.with_texts, found.with_metadata, found.alone):
        place.mkdir(parents=True)
    lines = []
    for source in sorted(PICTURES.glob("*.png")):
        caption = source.with_suffix(".txt")
        text = caption.read_text().strip() if caption.exists() else "zorp"
        with Image.open(source) as picture:
            larger = max(side, *picture.size)
            picture.convert("RGB").resize((larger, larger)).save(found.with_texts / source.name)
        for place in (found.with_metadata, found.alone):
            shutil.copy(found.with_texts / source.name, place / source.name)
        (found.with_texts / f"{source.stem}.txt").write_text(text)
        lines.append(json.dumps({"file_name": source.name, "text": text}))
    (found.with_metadata / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return found
