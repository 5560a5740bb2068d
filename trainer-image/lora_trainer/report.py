"""What is written beside the weights: config.json and report.json.

A module of its own because both say the same facts to different readers (programs that load the
LoRA, people who judge it) and must not drift apart.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lora_api.status import ArtifactStatus
from lora_trainer import __version__, basemodel
from lora_trainer.dataset import Dataset
from lora_trainer.disk import sha256_of_file
from lora_trainer.plan import Plan
from lora_trainer.quality import Quality
from lora_trainer.recipes import RECIPES
from lora_trainer.schedule import images_per_step

_LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "prodigyopt",
    "safetensors",
    "pillow",
    "numpy",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a run when its weights are saved."""

    plan: Plan
    """The settings."""

    dataset: Dataset
    """What it was trained on."""

    base: basemodel.BaseModel
    """What it adapts."""

    layers: list[str]
    """Adapted layers."""

    total_steps: int
    """Optimiser steps."""

    precision: str
    """Arithmetic of the base model: fp32, bf16 or fp16."""

    device: str
    """What it ran on."""

    prompts: list[str]
    """What is drawn."""

    processes: int = 1
    """How many trained together."""

    memory: str | None = None
    """How GPU memory was saved; None where an earlier attempt trained."""

    @property
    def images_per_step(self) -> int:
        """Training pictures that one optimiser step learns from."""
        optimization = self.plan.job.optimization
        return images_per_step(
            batch_size=optimization.batch_size,
            accumulation=optimization.gradient_accumulation_steps,
            processes=self.processes,
        )

    @property
    def epochs(self) -> int:
        """Passes over the training pictures, the last one perhaps in part."""
        return max(1, -(-self.total_steps * self.images_per_step // self.dataset.epoch_size))


def settings_of(facts: Facts) -> dict[str, Any]:
    """The facts as config.json has them; the same run gives the same bytes."""
    plan, job = facts.plan, facts.plan.job
    return {
        "format": RECIPES[job.recipe].file_format.value,
        "name": job.name,
        "runId": job.run_id,
        "recipe": job.recipe,
        "baseModel": {**_given(job.base_model), "digest": facts.base.digest},
        "dataset": {
            **_given(job.dataset),
            "minSidePixels": plan.min_side_pixels,
            "digest": facts.dataset.digest,
            "trainingPictures": len(facts.dataset.training),
            "heldOutPictures": len(facts.dataset.held_out),
        },
        "network": {
            **_given(job.network),
            "rank": plan.rank,
            "alpha": plan.alpha,
            "targetModules": list(plan.target_modules),
            "layers": len(facts.layers),
        },
        "optimization": {
            **_given(job.optimization),
            "steps": facts.total_steps,
            "learningRate": plan.learning_rate,
            "resolution": plan.resolution,
            "precision": facts.precision,
        },
        "validation": {
            **_given(job.validation),
            "prompts": facts.prompts,
            "guidanceScale": plan.guidance_scale,
        },
        "versions": versions(),
    }


def _given(section: BaseModel) -> dict[str, Any]:
    """A section of the job as it was given, defaults included."""
    return section.model_dump(mode="json", by_alias=True)


def make_report(
    facts: Facts,
    artifact: ArtifactStatus,
    quality: Quality,
    *,
    job_digest: str,
    steps: int,
    loss: float | None,
    folder: Path,
) -> dict[str, Any]:
    """report.json: all settings, figures and the digest of every other file.

    Args:
        facts: The settings.
        artifact: The saved file.
        quality: What was drawn and measured of it.
        job_digest: Digest of the job document; a restart knows its own report by it.
        steps: Optimiser steps in all; those of several denoisers are counted together.
        loss: Smoothed training loss at the end.
        folder: The result folder, complete but for the report.
    """
    held_out = {sample.picture.name for sample in facts.dataset.held_out}
    return {
        **settings_of(facts),
        "jobDigest": job_digest,
        "device": facts.device,
        "processes": facts.processes,
        "memory": facts.memory,
        "artifact": artifact.model_dump(mode="json", by_alias=True),
        "trainedSteps": steps,
        "trainingLoss": loss,
        "scores": quality.validation.model_dump(mode="json", by_alias=True),
        "gate": {
            "passed": quality.validation.passed,
            "criteria": [one.to_json() for one in quality.judgements],
        },
        "similarity": {
            "embedder": quality.embedder_digest,
            "prompts": [one.to_json() for one in quality.similarities],
        },
        "pictures": [
            {
                "file": sample.picture.name,
                "sha256": sample.picture.digest,
                "width": sample.picture.width,
                "height": sample.picture.height,
                "frames": sample.picture.frames,
                "converted": sample.picture.converted,
                "crop": asdict(sample.crop),
                "caption": sample.caption,
                "heldOut": sample.picture.name in held_out,
            }
            for sample in facts.dataset.samples
        ],
        "skipped": [{"file": one.name, "why": one.text} for one in facts.dataset.skipped],
        "warnings": [*facts.dataset.warnings, *quality.missing],
        "leftOut": quality.missing,
        "samples": [
            {
                "prompt": pair.prompt,
                "seed": pair.seed,
                "base": pair.base.relative_to(folder).as_posix(),
                "lora": pair.lora.relative_to(folder).as_posix(),
            }
            for pair in quality.drawn
        ],
        "files": digests_of(folder),
    }


def digests_of(folder: Path) -> Mapping[str, dict[str, Any]]:
    """Name to sha256 and size of every file in a folder but the report itself."""
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256_of_file(path),
            "sizeBytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "report.json" and not path.name.startswith(".")
    }


def versions() -> dict[str, str]:
    """Versions of the trainer and the libraries that shape its numbers."""
    found = {"lora-trainer": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
