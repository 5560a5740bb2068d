"""What is written beside the weights: config.json, report.json, and the metadata inside the file.

A module of its own because all three say the same facts to different readers (programs that load
the LoRA, people who judge it, tools that open the file) and must not drift apart.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lora_api.status import ArtifactStatus, ValidationStatus
from lora_trainer import __version__
from lora_trainer.basemodel import BaseModel
from lora_trainer.dataset import Dataset
from lora_trainer.disk import sha256_of_file
from lora_trainer.plan import Plan
from lora_trainer.recipes import RECIPES
from lora_trainer.sample import Drawn

_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "pillow", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a run when its weights are saved."""

    plan: Plan
    """The settings."""

    dataset: Dataset
    """What it was trained on."""

    base: BaseModel
    """What it adapts."""

    layers: list[str]
    """Adapted layers."""

    total_steps: int
    """Optimiser steps."""

    precision: str
    """Arithmetic of the base model: fp32, bf16 or fp16."""

    device: str
    """What it ran on."""


def settings_of(facts: Facts) -> dict[str, Any]:
    """The facts as config.json has them; the same run gives the same bytes."""
    job = facts.plan.job
    return {
        "format": "kohya",
        "name": job.name,
        "runId": job.run_id,
        "recipe": job.recipe,
        "baseModel": {"uri": job.base_model.uri, "digest": facts.base.digest},
        "dataset": {
            "uri": job.dataset.uri,
            "digest": facts.dataset.digest,
            "triggerWord": job.dataset.trigger_word,
            "captionDropout": job.dataset.caption_dropout,
            "trainingPictures": len(facts.dataset.training),
            "heldOutPictures": len(facts.dataset.held_out),
        },
        "network": {
            "rank": facts.plan.rank,
            "alpha": facts.plan.alpha,
            "dropout": job.network.dropout,
            "targetModules": list(facts.plan.target_modules),
            "layers": len(facts.layers),
        },
        "optimization": {
            **job.optimization.model_dump(mode="json", by_alias=True, exclude={"epochs"}),
            "steps": facts.total_steps,
            "learningRate": facts.plan.learning_rate,
            "resolution": facts.plan.resolution,
            "precision": facts.precision,
        },
        "versions": versions(),
    }


def file_metadata(facts: Facts) -> dict[str, str]:
    """Metadata inside the safetensors file: ss_* as sd-scripts writes them, modelspec.* and ours.

    No times: the same seed, data and machine give the same bytes.
    """
    job, optimization = facts.plan.job, facts.plan.job.optimization
    recipe = RECIPES[job.recipe]
    size = facts.plan.resolution
    tags = {sample.caption: 1 for sample in facts.dataset.training}
    values: dict[str, Any] = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": recipe.architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.trigger_phrase": job.dataset.trigger_word or "",
        "ss_output_name": job.name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": facts.plan.rank,
        "ss_network_alpha": facts.plan.alpha,
        "ss_network_dropout": job.network.dropout,
        "ss_base_model_version": recipe.base_version,
        "ss_sd_model_name": job.base_model.uri.rstrip("/").rsplit("/", 1)[-1],
        "ss_v2": False,
        "ss_learning_rate": facts.plan.learning_rate,
        "ss_unet_lr": facts.plan.learning_rate,
        "ss_lr_scheduler": optimization.lr_scheduler.value,
        "ss_lr_warmup_steps": optimization.warmup_steps,
        "ss_optimizer": "torch.optim.AdamW",
        "ss_max_grad_norm": optimization.max_grad_norm,
        "ss_seed": optimization.seed,
        "ss_steps": facts.total_steps,
        "ss_max_train_steps": facts.total_steps,
        "ss_batch_size_per_device": optimization.batch_size,
        "ss_total_batch_size": optimization.batch_size,
        "ss_resolution": f"({size}, {size})",
        "ss_mixed_precision": "no" if facts.precision == "fp32" else facts.precision,
        "ss_num_train_images": len(facts.dataset.training),
        "ss_caption_dropout_rate": job.dataset.caption_dropout,
        "ss_tag_frequency": json.dumps({"dataset": tags}, sort_keys=True),
        "lora_trainer.run_id": job.run_id,
        "lora_trainer.recipe": job.recipe,
        "lora_trainer.base_model_digest": facts.base.digest,
        "lora_trainer.dataset_digest": facts.dataset.digest,
        "lora_trainer.target_modules": json.dumps(list(facts.plan.target_modules)),
        "lora_trainer.versions": json.dumps(versions(), sort_keys=True),
    }
    return {name: str(value) for name, value in values.items()}


def make_report(
    facts: Facts,
    artifact: ArtifactStatus,
    validation: ValidationStatus,
    drawn: list[Drawn],
    *,
    missing: list[str],
    loss: float | None,
    folder: Path,
) -> dict[str, Any]:
    """report.json: all settings, figures and the digest of every other file.

    Args:
        facts: The settings.
        artifact: The saved file.
        validation: The held-out losses.
        drawn: The samples.
        missing: What could not be made, and why.
        loss: Smoothed training loss at the end.
        folder: The result folder, complete but for the report.
    """
    return {
        **settings_of(facts),
        "device": facts.device,
        "artifact": artifact.model_dump(mode="json", by_alias=True),
        "trainingLoss": loss,
        "validation": validation.model_dump(mode="json", by_alias=True),
        "pictures": [
            {
                "file": sample.picture.name,
                "sha256": sample.picture.digest,
                "width": sample.picture.width,
                "height": sample.picture.height,
                "converted": sample.picture.converted,
                "caption": sample.caption,
                "heldOut": sample in facts.dataset.held_out,
            }
            for sample in facts.dataset.samples
        ],
        "warnings": [*facts.dataset.warnings, *missing],
        "samples": [
            {
                "prompt": pair.prompt,
                "seed": pair.seed,
                "base": pair.base.relative_to(folder).as_posix(),
                "lora": pair.lora.relative_to(folder).as_posix(),
            }
            for pair in drawn
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
