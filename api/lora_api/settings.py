"""The settings of one training that the resource and the job document share word for word.

A module of its own so that a field added here reaches the CRD, the job document and the trainer
at once: there is no second spelling to forget.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from lora_api.base import (
    Document,
    ModuleName,
    Prompt,
    Seed,
    StorageUri,
    UnitInterval,
    document_config,
)
from lora_api.cel import CelRule

DEFAULT_STEPS = 1000


class LrScheduler(StrEnum):
    """How the learning rate runs from the end of the warm-up to the last step."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Precision(StrEnum):
    """Number format of the frozen base model's arithmetic; LoRA weights are always float32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class BaseModelSettings(Document):
    """The diffusion model that the LoRA adapts."""

    uri: StorageUri
    """Folder of the base model in diffusers layout (model_index.json, unet/, vae/, ...), with
    safetensors weights. In the cluster: s3://bucket/prefix."""


IMAGE_BOUNDS = CelRule("self.minImages <= self.maxImages", "minImages must not exceed maxImages")
STEPS_OR_EPOCHS = CelRule(
    "!(has(self.steps) && has(self.epochs))", "set steps or epochs, not both", field="epochs"
)
# The API server also holds the bare default of the section, {}, against this rule: hence has().
WARMUP_WITHIN_STEPS = CelRule(
    "has(self.epochs) || !has(self.warmupSteps) || self.warmupSteps <= "
    f"(has(self.steps) ? self.steps : {DEFAULT_STEPS})",
    f"warmupSteps must not exceed steps ({DEFAULT_STEPS} where neither steps nor epochs is given)",
    field="warmupSteps",
)


class DatasetSettings(Document):
    """The training pictures and their captions."""

    model_config = document_config(IMAGE_BOUNDS)

    uri: StorageUri
    """Prefix under which the pictures (JPG, PNG or WebP) lie. A text file of the same name with
    the ending .txt is a picture's caption. In the cluster: s3://bucket/prefix."""

    trigger_word: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^\S.*$")] | None = (
        None
    )
    """Word or words that will call the concept in a prompt. It is the caption of pictures without
    a caption file, and is put before a caption that lacks it."""

    min_images: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Fewest pictures that the run accepts; fewer fail it before the base model is loaded."""

    max_images: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Most pictures that the run accepts; more fail it before the base model is loaded."""

    min_side_pixels: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Shortest side a picture may have, in pixels. Default: the training resolution, because
    pictures are never scaled up."""

    caption_dropout: UnitInterval = 0.05
    """Share of training samples whose caption is left empty, which keeps classifier-free guidance
    working with the LoRA."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_images > self.max_images:
            raise ValueError(IMAGE_BOUNDS.message)
        return self


class NetworkSettings(Document):
    """The LoRA itself: low-rank matrices added to chosen layers of the base model."""

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of the added matrices. Higher learns more detail, makes a larger file and overfits
    sooner; 8 to 32 is usual."""

    alpha: Annotated[float, Field(gt=0, le=4096)] | None = None
    """Scale of the LoRA; its output is multiplied by alpha / rank. Default: the rank."""

    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the LoRA's inputs that is zeroed at each step, against overfitting."""

    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
    )
    """Names, or endings of names, of the base model's linear or convolution layers to adapt.
    Default: the attention projections."""


class OptimizationSettings(Document):
    """How long and how fast to train."""

    model_config = document_config(STEPS_OR_EPOCHS, WARMUP_WITHIN_STEPS)

    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Number of optimiser steps. Default: 1000 where neither steps nor epochs is given."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Number of passes over the dataset, instead of steps."""

    batch_size: Annotated[int, Field(ge=1, le=256)] = 1
    """Pictures per optimiser step."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.0e-4
    """Highest learning rate, reached after the warm-up."""

    lr_scheduler: LrScheduler = LrScheduler.COSINE
    """Course of the learning rate after the warm-up: cosine and linear fall to zero."""

    warmup_steps: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Steps over which the learning rate rises from zero."""

    weight_decay: UnitInterval = 0.01
    """AdamW's decoupled weight decay."""

    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Gradients are clipped to this global norm."""

    seed: Seed = 0
    """Seed of every random choice. The same seed, data and machine give the same bytes."""

    resolution: Annotated[int, Field(ge=64, le=2048, multiple_of=8)] | None = None
    """Side in pixels of the square that a picture is scaled down and centre-cropped to.
    Default: the recipe's (512 for sd15)."""

    precision: Precision = Precision.AUTO
    """Arithmetic of the frozen base model. auto: bf16 on a GPU that has it, else fp32."""

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(STEPS_OR_EPOCHS.message)
        return self

    @model_validator(mode="after")
    def _warmup_within_steps(self) -> Self:
        steps = DEFAULT_STEPS if self.steps is None else self.steps
        if self.epochs is None and self.warmup_steps > steps:
            raise ValueError(WARMUP_WITHIN_STEPS.message)
        return self


class CheckpointSettings(Document):
    """How often progress is made safe in the workspace."""

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 250
    """Steps between two checkpoints. A restarted run loses at most this many."""

    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints kept in the workspace; older ones are deleted."""


class ValidationSettings(Document):
    """What is drawn and measured after training, with the base model beside base + LoRA."""

    prompts: Annotated[tuple[Prompt, ...], Field(max_length=16)] = ()
    """Prompts to draw with the same seeds before and after. Default: three made from the trigger
    word."""

    seed: Seed = 0
    """Seed of the first sample; each further one adds one."""

    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 25
    """Denoising steps per sample."""

    guidance_scale: Annotated[float, Field(ge=0, le=50)] = 7.5
    """Classifier-free guidance scale of the samples."""

    held_out_images: Annotated[int, Field(ge=0, le=1000)] = 1
    """Pictures kept out of training and used only to measure the denoising loss of the base model
    against base + LoRA. Zero measures none."""


class OutputSettings(Document):
    """Where the finished LoRA goes."""

    uri: StorageUri
    """Prefix that receives model.safetensors, config.json, report.json, contact-sheet.png and
    samples/. In the cluster: s3://bucket/prefix."""
