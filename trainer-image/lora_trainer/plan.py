"""The job document, read and completed: everything that is known before any file is touched.

A module of its own because it is the one stage that needs neither network nor disk: all faults
of the document are found here, at once, in milliseconds.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lora_api.job import JobDocument
from lora_api.progress import MAX_STEPS
from lora_api.reasons import Reason
from lora_api.recipes import setting_faults
from lora_api.settings import Optimizer, Precision
from lora_api.wording import explain
from lora_trainer.disk import sha256_of_json
from lora_trainer.errors import TrainerError
from lora_trainer.recipes import RECIPES, RecipeDefaults
from lora_trainer.schedule import images_per_step, steps_of

# What a job says of its dataset that shapes the weights, beside the pictures and captions.
_SHAPING = {
    "aspect_buckets",
    "caption_dropout",
    "flip",
    "frames",
    "keep_tags",
    "repeats",
    "shuffle_captions",
}
UNNAMED_RUN: str = JobDocument.model_fields["run_id"].default
_MAX_DOCUMENT_BYTES = 1 << 20
# A character, a scene, an action.
_DEFAULT_PROMPTS = ("a portrait of {}", "{} in a park", "{} running")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A job with every default filled in that does not depend on the data."""

    job: JobDocument
    """The document as given."""

    resolution: int
    """Side of the training square in pixels."""

    rank: int
    """Rank of the LoRA."""

    alpha: float
    """Scale of the LoRA; the rank where the job names none."""

    target_modules: tuple[str, ...]
    """Names, or endings of names, of the layers that get an adapter."""

    learning_rate: float
    """Highest learning rate."""

    guidance_scale: float
    """Guidance of the samples."""

    min_side_pixels: int
    """Shortest side that a picture may have."""

    key: str
    """Digest of all that shapes the result; finished stages of another key don't count."""

    @property
    def drawing_side(self) -> int:
        """Side of a sample in pixels: the resolution in whole steps of the family's buckets.

        Not every family can draw what lies between them.
        """
        step = RECIPES[self.job.recipe].bucket_step
        return self.resolution // step * step

    def inputs_digest(
        self, dataset_digest: str, base_digest: str, *, processes: int, precision: Precision
    ) -> str:
        """Digest of all that shapes the weights; places and prompts don't.

        A checkpoint of other inputs is none: with other processes the steps have other batches,
        and a run by epochs has another number of steps.

        Args:
            dataset_digest: Digest of pictures and captions.
            base_digest: Digest of the base model.
            processes: How many train together.
            precision: Arithmetic of the base model on this machine, never `auto`.
        """
        job = self.job
        return sha256_of_json(
            {
                "recipe": job.recipe,
                "base": base_digest,
                "dataset": dataset_digest,
                **job.dataset.model_dump(mode="json", include=_SHAPING),
                "held_out": job.validation.held_out_images,
                "network": job.network.model_dump(mode="json"),
                "optimization": job.optimization.model_dump(mode="json"),
                "resolution": self.resolution,
                "processes": processes,
                "precision": precision.value,
            }
        )

    def total_steps(self, images: int, *, processes: int = 1) -> int:
        """Optimiser steps, from steps or from epochs.

        Args:
            images: Samples of one epoch (without those held out, repeats included).
            processes: How many train together.

        Raises:
            TrainerError: InvalidJob; they are more than any run may have.
        """
        optimization = self.job.optimization
        if optimization.epochs is None:
            return optimization.steps or RECIPES[self.job.recipe].steps
        steps = self._steps_of(optimization.epochs, images, processes)
        if steps > MAX_STEPS:
            raise _invalid(
                f"optimization.epochs: {optimization.epochs} epochs of {images} samples "
                f"(dataset.repeats included) are {steps} steps, more than {MAX_STEPS}; lower "
                "optimization.epochs or dataset.repeats"
            )
        return steps

    def checkpoint_steps(self, images: int, *, processes: int = 1) -> int:
        """Steps between two checkpoints, from steps or from epochs.

        Args:
            images: Samples of one epoch (without those held out, repeats included).
            processes: How many train together.
        """
        checkpoints = self.job.checkpoints
        if checkpoints.every_epochs is None:
            return checkpoints.every_steps
        return self._steps_of(checkpoints.every_epochs, images, processes)

    def _steps_of(self, epochs: int, images: int, processes: int) -> int:
        optimization = self.job.optimization
        per_step = images_per_step(
            batch_size=optimization.batch_size,
            accumulation=optimization.gradient_accumulation_steps,
            processes=processes,
        )
        return steps_of(epochs, images=images, per_step=per_step)

    def prompts(self, captions: list[str]) -> list[str]:
        """What is drawn: the job's prompts, else three from the trigger word or the captions.

        Args:
            captions: Of the training pictures, which hold what is to be drawn without a trigger
                word; where they are fewer than three, the first one fills up.
        """
        if self.job.validation.prompts:
            return list(self.job.validation.prompts)
        subject = self.job.dataset.trigger_word
        own = [] if subject is not None else list(dict.fromkeys(captions))[:3]
        made = [template.format(subject or captions[0]) for template in _DEFAULT_PROMPTS]
        return own + made[len(own) :]


def read_document(path: Path | None, environment: str | None) -> str:
    """The job document's text, from a file or from LORA_JOB.

    Args:
        path: File named on the command line.
        environment: Value of LORA_JOB.

    Raises:
        TrainerError: InvalidJob; there is none, or it can't be read.
    """
    if path is None:
        if environment is None:
            raise _invalid("no job: name a file (lora-trainer run job.json) or set LORA_JOB")
        return environment
    try:
        if path.stat().st_size > _MAX_DOCUMENT_BYTES:
            raise _invalid(f"{path} is larger than {_MAX_DOCUMENT_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _invalid(f"{path} can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _invalid(f"{path} is not UTF-8 text (byte {error.start})") from error


def parse_job(text: str) -> JobDocument:
    """The job, checked; every fault is named in one message.

    Args:
        text: JSON.

    Raises:
        TrainerError: InvalidJob with all faults, each with its path.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the job document is not JSON: {error}") from error
    faults = _recipe_fault(value)
    try:
        job = JobDocument.model_validate(value)
        faults += _setting_faults(job)
    except ValidationError as error:
        faults = [*faults, explain(error)]
    if faults:
        raise _invalid("; ".join(faults))
    return job


def with_identity(job: JobDocument, recorded: str | None) -> JobDocument:
    """The job with an identity of its own where the document names none.

    It follows from the document and not from chance, because config.json holds it:
    the same document gives the same bytes in another workspace.

    Args:
        job: The document.
        recorded: The identity that the workspace has; a local one is kept although the document
            changed, so that the run goes on.
    """
    if job.run_id != UNNAMED_RUN:
        return job
    if recorded is not None and (recorded + "-").startswith(f"{UNNAMED_RUN}-"):
        return job.model_copy(update={"run_id": recorded})
    content = job.model_dump(mode="json", exclude={"server", "output", "run_id"})
    return job.model_copy(update={"run_id": f"{UNNAMED_RUN}-{sha256_of_json(content)[:32]}"})


def make_plan(job: JobDocument) -> Plan:
    """Fill in what the recipe decides."""
    defaults: RecipeDefaults = RECIPES[job.recipe]
    resolution = job.optimization.resolution or defaults.resolution
    rank = job.network.rank or defaults.rank
    guidance_scale = job.validation.guidance_scale
    shaping = job.model_dump(mode="json", exclude={"server"})
    return Plan(
        job=job,
        resolution=resolution,
        rank=rank,
        alpha=float(job.network.alpha or rank),
        target_modules=job.network.target_modules or defaults.target_modules,
        learning_rate=job.optimization.learning_rate or _learning_rate(job, defaults),
        guidance_scale=defaults.guidance_scale if guidance_scale is None else guidance_scale,
        min_side_pixels=(job.dataset.min_side_pixels or min(resolution, defaults.min_side_pixels)),
        key=sha256_of_json(shaping),
    )


def _learning_rate(job: JobDocument, defaults: RecipeDefaults) -> float:
    # Prodigy estimates the rate; what it is given is only a factor on its own.
    return 1.0 if job.optimization.optimizer is Optimizer.PRODIGY else defaults.learning_rate


def _recipe_fault(value: object) -> list[str]:
    recipe = value.get("recipe") if isinstance(value, dict) else None
    if isinstance(recipe, str) and recipe not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        return [f"recipe: there is no recipe {recipe[:63]!r}; known are: {known}"]
    return []


def _setting_faults(job: JobDocument) -> list[str]:
    if job.recipe not in RECIPES:
        return []
    return setting_faults(
        job.recipe,
        base_model=job.base_model,
        dataset=job.dataset,
        network=job.network,
        optimization=job.optimization,
    )


def _invalid(message: str) -> TrainerError:
    return TrainerError(Reason.INVALID_JOB, message)
