"""What a run knows once it has decided where and how it computes, before any weight is loaded.

A module of its own because training, saving and drawing share it, and because each of them may be
where a restart begins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lora_api.reasons import Reason
from lora_api.settings import MemoryStrategy, Precision
from lora_trainer import log
from lora_trainer.basemodel import BaseModel
from lora_trainer.cache import Cache
from lora_trainer.compiling import check_compile
from lora_trainer.context import Context
from lora_trainer.dataset import Dataset
from lora_trainer.disk import sha256_of_json
from lora_trainer.environment import threads
from lora_trainer.errors import TrainerError
from lora_trainer.lora import find_layers
from lora_trainer.memory import check_memory
from lora_trainer.optimizers import check_optimizer
from lora_trainer.processes import processes_for
from lora_trainer.recipes import Recipe, TextEncoder, load_recipe
from lora_trainer.report import Facts


@dataclass(kw_only=True, slots=True)
class Session:
    """The parts of one run that torch holds."""

    context: Context
    """Plan, workspace, progress, stop flag."""

    dataset: Dataset
    """Checked pictures and captions."""

    base: BaseModel
    """The base model's files."""

    recipe: Recipe
    """The family."""

    cache: Cache
    """Latents and embeddings."""

    device: torch.device
    """Where it runs."""

    precision: Precision
    """Arithmetic of the base model, never `auto`."""

    layers: list[str]
    """Layers that get an adapter."""

    prompts: list[str]
    """What is drawn after training."""

    total_steps: int
    """Optimiser steps."""

    inputs: str
    """Digest of all that shapes the weights: settings, pictures, captions, base model."""

    processes: int = 1
    """How many train together."""

    memory: MemoryStrategy | None = None
    """How memory was saved, once trained."""

    denoiser: torch.nn.Module | None = None
    """The model, once loaded."""

    text_encoder: TextEncoder | None = None
    """Once loaded, where it is trained too."""

    def each_expert(self) -> Iterator[None]:
        """Make the session stand for each of the base model's denoisers, and then for the first.

        Each is trained on inputs of its own name, and gone before the next one is loaded.
        """
        experts, inputs = self.recipe.experts(), self.inputs
        for recipe in experts:
            self.recipe = recipe
            self.inputs = (
                f"{sha256_of_json(recipe.part.name)[:8]}{inputs}" if recipe.part.name else inputs
            )
            yield
            if len(experts) > 1:
                self.denoiser = None
        self.recipe, self.inputs = experts[0], inputs

    def facts(self) -> Facts:
        """What the report says of this run."""
        return Facts(
            plan=self.context.plan,
            dataset=self.dataset,
            base=self.base,
            layers=self.layers,
            total_steps=self.total_steps,
            precision=self.precision.value,
            device=device_name(self.device),
            prompts=self.prompts,
            processes=self.processes,
            memory=None if self.memory is None else self.memory.value,
        )

    def text_models(self) -> Mapping[str, torch.nn.Module]:
        """The text encoders that are trained too, by their folder's name."""
        return {} if self.text_encoder is None else self.text_encoder.modules()


def open_session(context: Context, dataset: Dataset, base: BaseModel) -> Session:
    """Decide where and how to compute, and check what can be checked without weights.

    Args:
        context: The run.
        dataset: Its checked dataset.
        base: Its base model.

    Raises:
        TrainerError: TargetModulesNotFound, or InvalidJob for what can't be had on this machine.
    """
    torch.set_num_threads(threads())
    plan, job = context.plan, context.plan.job
    recipe = load_recipe(job.recipe, base)
    check_optimizer(job.optimization.optimizer)
    check_memory(job.optimization.memory)
    check_compile(job.optimization.compile)
    processes = processes_for(job.processes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = _precision(job.optimization.precision, device)
    layers = find_layers(recipe.skeleton(), plan.target_modules)
    _check_layers(recipe, layers)
    if len(recipe.experts()) > 1 and job.validation.sample_every_steps is not None:
        raise TrainerError(
            Reason.INVALID_JOB,
            "validation.sampleEverySteps: the base model has two experts, which draw together and "
            "are trained one after the other; remove it",
        )
    session = Session(
        context=context,
        dataset=dataset,
        base=base,
        recipe=recipe,
        cache=Cache(context.workspace.cache, base, recipe=job.recipe),
        device=device,
        precision=precision,
        layers=layers,
        prompts=plan.prompts([sample.caption for sample in dataset.training]),
        processes=processes,
        total_steps=plan.total_steps(dataset.epoch_size, processes=processes),
        inputs=plan.inputs_digest(
            dataset.digest, base.digest, processes=processes, precision=precision
        ),
    )
    log.info(
        "loaded",
        device=device_name(device),
        precision=session.precision.value,
        layers=len(layers),
        steps=session.total_steps,
        processes=processes,
        pictures=len(dataset.training),
        held_out=len(dataset.held_out),
    )
    return session


def _check_layers(recipe: Recipe, layers: Sequence[str]) -> None:
    """Find out before training that the family's files have a name for every layer."""
    blank = torch.empty(1, device="meta")
    names = {f"{layer}.lora_{side}.weight": blank for layer in layers for side in "AB"}
    recipe.to_file(names, alpha=1.0)


def _precision(wanted: Precision, device: torch.device) -> Precision:
    if wanted is Precision.AUTO:
        # Older GPUs only emulate it, slower than fp32.
        half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision.BF16 if half else Precision.FP32
    return wanted


def device_name(device: torch.device) -> str:
    """What a device is, for the log and the report."""
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return str(properties.name)
    return f"{device.type} ({torch.get_num_threads()} threads)"
