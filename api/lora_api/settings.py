"""The settings of one training that the resource and the job document share word for word.

A module of its own so that a field added here reaches the CRD, the job document and the trainer
at once: there is no second spelling to forget.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from lora_api.base import (
    MAX_LEARNING_RATE,
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


class Optimizer(StrEnum):
    """What turns gradients into updates."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw8bit"
    PRODIGY = "prodigy"
    ADAFACTOR = "adafactor"


class MemoryStrategy(StrEnum):
    """How GPU memory is saved, from the fastest to the leanest; each keeps what came before."""

    AUTO = "auto"
    NONE = "none"
    CHECKPOINTING = "checkpointing"
    FP8 = "fp8"
    NF4 = "nf4"


class Switch(StrEnum):
    """Whether something is done: by judgement, always, or never."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class InvalidFiles(StrEnum):
    """What is done about pictures and captions that can't be used."""

    FAIL = "Fail"
    SKIP = "Skip"


class BaseModelSettings(Document):
    """The diffusion model that the LoRA adapts."""

    uri: StorageUri
    """Folder of the base model in diffusers layout (model_index.json, unet/, vae/, ...), with
    safetensors weights; or one .safetensors file in the family's original layout. In the cluster:
    s3://bucket/prefix."""

    components_uri: StorageUri | None = None
    """Folder in diffusers layout that gives what a single-file checkpoint lacks: configs,
    tokenizers, and for flux and wan also VAE and text encoders."""

    @property
    def is_single_file(self) -> bool:
        """Whether the weights come in one file in the family's original layout."""
        return self.uri.lower().endswith(".safetensors")


DATASET_SOURCE = CelRule(
    "has(self.uri) != (has(self.uris) && size(self.uris) > 0)",
    "set uri (a prefix or an archive) or uris (single files), and not both",
    field="uri",
)
TEMPLATE_TRIGGER = CelRule(
    "!has(self.captionTemplate) || !self.captionTemplate.contains('{trigger}') || "
    "has(self.triggerWord)",
    "captionTemplate has {trigger}, so triggerWord must be set",
    field="captionTemplate",
)
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
    """The training pictures (or clips) and their captions."""

    model_config = document_config(DATASET_SOURCE, TEMPLATE_TRIGGER, IMAGE_BOUNDS)

    uri: StorageUri | None = None
    """Prefix under which the pictures (JPG, PNG or WebP) lie, or an archive of them (.zip, .tar,
    .tar.gz). A text file of the same name with the ending .txt is a picture's caption; or a file
    metadata.jsonl names them all. In the cluster: s3://bucket/prefix."""

    uris: Annotated[tuple[StorageUri, ...], Field(max_length=200)] = ()
    """Single files instead of a prefix: pictures or clips, .txt captions, a metadata.jsonl."""

    trigger_word: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^\S.*$")] | None = (
        None
    )
    """Word or words that will call the concept in a prompt. It is the caption of pictures without
    a caption, and is put before a caption that lacks it."""

    caption_template: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """Caption of pictures that have none, in which {trigger} stands for the trigger word.
    Default: the trigger word alone."""

    shuffle_captions: bool = False
    """Whether the comma-separated parts of a caption are trained in other orders too, in up to 8
    that follow from the caption."""

    keep_tags: Annotated[int, Field(ge=0, le=64)] = 1
    """Leading parts of a caption that stay where they are when captions are shuffled."""

    caption_dropout: UnitInterval = 0.05
    """Share of training samples whose caption is left empty, which keeps classifier-free guidance
    working with the LoRA."""

    repeats: Annotated[int, Field(ge=1, le=1000)] = 1
    """Times that each picture is seen in an epoch."""

    flip: bool = False
    """Whether half of the samples are mirrored; not for faces or lettering."""

    min_images: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Fewest pictures that the run accepts; fewer fail it before the base model is loaded."""

    max_images: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Most pictures that the run accepts; more fail it before the base model is loaded."""

    min_file_bytes: Annotated[int, Field(ge=0, le=64 << 20)] = 100_000
    """Fewest bytes of a picture's file; smaller ones are thumbnails or heavily compressed."""

    max_file_bytes: Annotated[int, Field(ge=1000, le=1 << 30)] = 10_000_000
    """Most bytes of a picture's (or clip's) file."""

    min_side_pixels: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Shortest side a picture may have, in pixels. Default: 512, or the training resolution where
    that is lower. Pictures are never scaled up."""

    on_invalid_files: InvalidFiles = InvalidFiles.FAIL
    """Fail: any unusable file ends the run, with all of them named. Skip: the run goes on with the
    others, as long as minImages are left, and the report names those left out."""

    aspect_buckets: bool = True
    """Whether pictures keep about their own shape (no side more than twice the other), in groups of
    equal shape and about resolution x resolution pixels; otherwise all are cropped to squares."""

    frames: Annotated[int, Field(ge=1, le=257)] | None = None
    """Frames of a training clip (wan: 4 n + 1), from its beginning at 16 a second; shorter clips
    are trained with fewer. Default: the recipe's (17); pictures count as one."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.uri is None) == (not self.uris):
            raise ValueError(DATASET_SOURCE.message)
        return self

    @model_validator(mode="after")
    def _trigger_for_template(self) -> Self:
        if "{trigger}" in (self.caption_template or "") and self.trigger_word is None:
            raise ValueError(TEMPLATE_TRIGGER.message)
        return self

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_images > self.max_images:
            raise ValueError(IMAGE_BOUNDS.message)
        return self


class NetworkSettings(Document):
    """The LoRA itself: low-rank matrices added to chosen layers of the base model."""

    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Rank of the added matrices. Higher learns more detail, makes a larger file and overfits
    sooner; 8 to 32 is usual. Default: the recipe's (16)."""

    alpha: Annotated[float, Field(gt=0, le=4096)] | None = None
    """Scale of the LoRA; its output is multiplied by alpha / rank. Default: the rank."""

    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the LoRA's inputs that is zeroed at each step, against overfitting."""

    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] | None = (
        None
    )
    """Names, or endings of names, of the base model's linear or convolution layers to adapt.
    Default: the recipe's, which are the attention projections (to_q, to_k, to_v, to_out.0)."""

    text_encoder: bool = False
    """Whether the text encoders (sd15, sdxl) get a LoRA too; needs more memory and time."""


class OptimizationSettings(Document):
    """How long and how fast to train."""

    model_config = document_config(STEPS_OR_EPOCHS, WARMUP_WITHIN_STEPS)

    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Number of optimiser steps. Default: 1000 where neither steps nor epochs is given."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Number of passes over the dataset, instead of steps."""

    batch_size: Annotated[int, Field(ge=1, le=256)] = 1
    """Pictures that are computed together on each GPU."""

    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=1024)] = 1
    """Batches whose gradients make one optimiser step: a larger batch in the same memory."""

    learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)] | None = None
    """Highest learning rate, reached after the warm-up. Default: the recipe's (0.0001), and 1 for
    prodigy, which finds its own."""

    optimizer: Optimizer = Optimizer.ADAMW
    """What turns gradients into updates: adamw (fused), adamw8bit (less memory), prodigy (finds
    the learning rate by itself) or adafactor."""

    lr_scheduler: LrScheduler = LrScheduler.COSINE
    """Course of the learning rate after the warm-up: cosine and linear fall to zero."""

    warmup_steps: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Steps over which the learning rate rises from zero."""

    weight_decay: UnitInterval = 0.01
    """Decoupled weight decay."""

    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Gradients are clipped to this global norm."""

    min_snr_gamma: Annotated[float, Field(gt=0, le=100)] | None = None
    """Weighs each noise level by min(SNR, gamma) / SNR, so that the easy ones don't dominate; 5 is
    usual (sd15, sdxl). Default: every level weighs the same."""

    noise_offset: UnitInterval = 0.0
    """Strength of noise that is constant over the picture, for very dark and very bright results
    (sd15, sdxl); 0.05 is usual."""

    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keeps a moving average of the LoRA's weights and saves that, e.g. 0.999. Default: none."""

    timestep_shift: Annotated[float, Field(gt=0, le=20)] | None = None
    """Moves training towards noisier (above 1) levels (flux, wan). Default: the recipe's."""

    seed: Seed = 0
    """Seed of every random choice. The same seed, data and machine give the same bytes."""

    resolution: Annotated[int, Field(ge=64, le=2048, multiple_of=8)] | None = None
    """Side in pixels of the square whose area pictures are scaled down to. Default: the recipe's
    (512 for sd15, 1024 for sdxl and flux, 480 for wan)."""

    precision: Precision = Precision.AUTO
    """Arithmetic of the frozen base model. auto: bf16 on a GPU that has it, else fp32."""

    memory: MemoryStrategy = MemoryStrategy.AUTO
    """How GPU memory is saved. auto: the first of none, checkpointing, fp8 and nf4 that fits, found
    by a trial step for each picture shape before training."""

    compile: Switch = Switch.AUTO
    """Whether the model's repeated blocks are compiled. auto: on a GPU, where the run is long
    enough to win back the time that compiling takes."""

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

    every_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Epochs between two checkpoints, instead of everySteps."""

    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints kept in the workspace; older ones are deleted."""


class GateSettings(Document):
    """What a LoRA must reach to be called validated; the file is stored whatever comes out."""

    min_alike: Annotated[int, Field(ge=0, le=16)] = 2
    """Prompts whose samples must be more alike to the training pictures than the base model's; all
    where there are fewer. Judged only where validation.embedderUri is given."""

    min_improvement_percent: Annotated[float, Field(ge=-1000, le=100)] = 0.0
    """Least improvement of the held-out loss over the base model, in percent. From 0 on the LoRA
    must be better than the base model; judged only where pictures are held out."""


class ValidationSettings(Document):
    """What is drawn and measured after training, with the base model beside base + LoRA."""

    prompts: Annotated[tuple[Prompt, ...], Field(max_length=16)] = ()
    """Prompts to draw with the same seeds before and after. Default: three made from the trigger
    word, or from the captions where there is none: a portrait, a scene, an action."""

    seed: Seed = 0
    """Seed of the first sample; each further one adds one."""

    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 25
    """Denoising steps per sample."""

    guidance_scale: Annotated[float, Field(ge=0, le=50)] | None = None
    """Guidance scale of the samples. Default: the recipe's (7.5 for sd15, 3.5 for flux)."""

    sample_every_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Draws each prompt every so many steps while training. Default: only at the end."""

    embedder_uri: StorageUri | None = None
    """Folder of an image embedder (DINOv2 or CLIP, transformers layout, safetensors) that compares
    samples with training pictures. Default: none, and no such score."""

    gate: GateSettings = GateSettings()
    """What the LoRA must reach to be called validated."""

    held_out_images: Annotated[int, Field(ge=0, le=1000)] = 1
    """Pictures kept out of training and used only to measure the denoising loss of the base model
    against base + LoRA. Zero measures none."""


class OutputFiles(Document):
    """What is stored besides the LoRA and its report."""

    tensorboard: bool = False
    """Whether TensorBoard event files of the training are stored too, under tensorboard/."""


class OutputSettings(OutputFiles):
    """Where the finished LoRA goes."""

    uri: StorageUri
    """Prefix that receives model.safetensors, config.json, report.json, contact-sheet.png,
    loss-curve.png and samples/. In the cluster: s3://bucket/prefix."""
