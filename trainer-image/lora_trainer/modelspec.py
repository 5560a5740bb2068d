"""The metadata inside the saved file, under the names that other people's tools read.

A module of its own because these names are an interface: `ss_*` as sd-scripts writes them and web
user interfaces show them, `modelspec.*` after Stability's specification, `sshs_*` after the
additional-networks extension.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lora_api.settings import Optimizer
from lora_trainer.recipes import RECIPES, Part
from lora_trainer.report import Facts, settings_of, versions

_OPTIMIZERS = {
    Optimizer.ADAMW: "torch.optim.adamw.AdamW",
    Optimizer.ADAMW_8BIT: "bitsandbytes.optim.adamw.AdamW8bit",
    Optimizer.PRODIGY: "prodigyopt.prodigy.Prodigy",
    Optimizer.ADAFACTOR: "transformers.optimization.Adafactor",
}
# What a published file need not tell: where things lay, which run it was (equal runs give equal
# bytes; config.json and report.json name it), and what was drawn of it.
_UNTOLD = {"uri", "uris", "componentsUri", "runId", "validation", "versions"}
_MAX_TAGS = 1000


def file_metadata(facts: Facts, part: Part, *, weights: bytes) -> dict[str, str]:
    """Metadata of one saved file.

    No times and no places: the same seed, data and machine give the same bytes.

    Args:
        facts: The run.
        part: Which of the base model's denoisers the file is for.
        weights: The file's tensor data, for its hash.
    """
    digest = hashlib.sha256(weights).hexdigest()
    values = {
        **_modelspec(facts),
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,
        **_sd_scripts(facts),
        **_ours(facts, part),
    }
    return {name: str(value) for name, value in values.items()}


def _modelspec(facts: Facts) -> dict[str, Any]:
    job, size = facts.plan.job, facts.plan.resolution
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": RECIPES[job.recipe].architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.trigger_phrase": job.dataset.trigger_word or "",
    }


def _sd_scripts(facts: Facts) -> dict[str, Any]:
    plan, job = facts.plan, facts.plan.job
    dataset, network, optimization = job.dataset, job.network, job.optimization
    return {
        "ss_output_name": job.name,
        "ss_network_module": RECIPES[job.recipe].network_module,
        "ss_network_dim": plan.rank,
        "ss_network_alpha": plan.alpha,
        "ss_network_dropout": network.dropout,
        "ss_network_args": json.dumps({"dropout": network.dropout}) if network.dropout else "{}",
        "ss_base_model_version": RECIPES[job.recipe].base_version,
        "ss_sd_model_name": job.base_model.uri.rstrip("/").rsplit("/", 1)[-1],
        "ss_v2": False,
        "ss_learning_rate": plan.learning_rate,
        "ss_unet_lr": plan.learning_rate,
        "ss_text_encoder_lr": plan.learning_rate if network.text_encoder else None,
        "ss_lr_scheduler": optimization.lr_scheduler.value,
        "ss_lr_warmup_steps": optimization.warmup_steps,
        "ss_optimizer": _OPTIMIZERS[optimization.optimizer],
        "ss_max_grad_norm": optimization.max_grad_norm,
        "ss_gradient_accumulation_steps": optimization.gradient_accumulation_steps,
        "ss_min_snr_gamma": optimization.min_snr_gamma,
        "ss_noise_offset": optimization.noise_offset or None,
        "ss_discrete_flow_shift": optimization.timestep_shift,
        "ss_seed": optimization.seed,
        "ss_steps": facts.total_steps,
        "ss_max_train_steps": facts.total_steps,
        "ss_num_epochs": facts.epochs,
        "ss_epoch": facts.epochs,
        "ss_batch_size_per_device": optimization.batch_size,
        "ss_total_batch_size": facts.images_per_step,
        "ss_resolution": f"({plan.resolution}, {plan.resolution})",
        "ss_enable_bucket": dataset.aspect_buckets,
        "ss_flip_aug": dataset.flip,
        "ss_shuffle_caption": dataset.shuffle_captions,
        "ss_keep_tokens": dataset.keep_tags,
        "ss_caption_dropout_rate": dataset.caption_dropout,
        "ss_mixed_precision": "no" if facts.precision == "fp32" else facts.precision,
        "ss_num_train_images": facts.dataset.epoch_size,
        "ss_dataset_dirs": json.dumps(
            {"dataset": {"img_count": len(facts.dataset.training), "n_repeats": dataset.repeats}}
        ),
        "ss_tag_frequency": json.dumps({"dataset": _tags(facts)}),
    }


def _ours(facts: Facts, part: Part) -> dict[str, Any]:
    job = facts.plan.job
    named = {"lora_trainer.part": part.name} if part.name else {}
    return {
        **named,
        "lora_trainer.recipe": job.recipe,
        "lora_trainer.base_model_digest": facts.base.digest,
        "lora_trainer.dataset_digest": facts.dataset.digest,
        "lora_trainer.target_modules": json.dumps(list(facts.plan.target_modules)),
        "lora_trainer.settings": json.dumps(_told(settings_of(facts)), sort_keys=True),
        "lora_trainer.versions": json.dumps(versions(), sort_keys=True),
    }


def _tags(facts: Facts) -> dict[str, int]:
    """How often each comma-separated part of a caption occurs; the most frequent ones."""
    counted = Counter(
        tag.strip()
        for sample in facts.dataset.training
        for tag in sample.caption.split(",")
        if tag.strip()
    )
    common = sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))[:_MAX_TAGS]
    return dict(common)


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _told(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in _UNTOLD
    }
