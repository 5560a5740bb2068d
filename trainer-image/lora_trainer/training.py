"""The stages up to the last step: load, cache, train; and the session that they share.

A module of its own because importing it imports torch: run.py gets here only when there is
something to train or draw.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.settings import Precision
from lora_trainer import log
from lora_trainer.basemodel import BaseModel
from lora_trainer.cache import Cache, fill_cache
from lora_trainer.context import Context
from lora_trainer.course import COURSE, Course
from lora_trainer.dataset import Dataset
from lora_trainer.environment import threads
from lora_trainer.errors import TrainerError
from lora_trainer.loop import EMPTY_CAPTION, Trainer
from lora_trainer.lora import attach, find_layers
from lora_trainer.observers import LoopObserver, Observers, WhenSaved
from lora_trainer.previews import Previews
from lora_trainer.recipes import RECIPES, LossSettings, Recipe, load_recipe
from lora_trainer.report import Facts
from lora_trainer.sample import Brush

_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


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

    denoiser: torch.nn.Module | None = None
    """The model, once loaded."""

    def facts(self) -> Facts:
        """What the report says of this run."""
        return Facts(
            plan=self.context.plan,
            dataset=self.dataset,
            base=self.base,
            layers=self.layers,
            total_steps=self.total_steps,
            precision=self.precision.value,
            device=_device_name(self.device),
            prompts=self.prompts,
        )


def open_session(context: Context, dataset: Dataset, base: BaseModel) -> Session:
    """Decide where and how to compute, and check what can be checked without weights.

    Args:
        context: The run.
        dataset: Its checked dataset.
        base: Its base model.

    Raises:
        TrainerError: TargetModulesNotFound, or InvalidJob for a precision that can't be had.
    """
    torch.set_num_threads(threads())
    plan, job = context.plan, context.plan.job
    recipe = load_recipe(job.recipe, base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = find_layers(recipe.skeleton(), plan.target_modules)
    session = Session(
        context=context,
        dataset=dataset,
        base=base,
        recipe=recipe,
        cache=Cache(context.workspace.cache, base),
        device=device,
        precision=_precision(job.optimization.precision, device),
        layers=layers,
        prompts=plan.prompts([sample.caption for sample in dataset.training]),
        total_steps=plan.total_steps(len(dataset.training)),
        inputs=plan.inputs_digest(dataset.digest, base.digest),
    )
    log.info(
        "loaded",
        device=_device_name(device),
        precision=session.precision.value,
        layers=len(layers),
        steps=session.total_steps,
        pictures=len(dataset.training),
        held_out=len(dataset.held_out),
    )
    return session


def cache_inputs(session: Session) -> None:
    """Encode pictures, captions and prompts that are not in the cache yet."""
    board = session.context.board
    board.enter(Stage.CACHE)
    texts = [(EMPTY_CAPTION, "the empty caption")]
    texts += [
        (caption, sample.picture.name)
        for sample in session.dataset.samples
        for caption in sample.captions
    ]
    texts += [(prompt, "validation.prompts") for prompt in session.prompts]
    fill_cache(
        session.cache,
        session.recipe,
        samples=session.dataset.samples,
        texts=texts,
        video=RECIPES[session.context.plan.job.recipe].frames > 1,
        device=session.device,
        stop=session.context.stop,
        advance=board.advance,
    )


def train(session: Session) -> None:
    """Train from the newest checkpoint to the last step."""
    context, job = session.context, session.context.plan.job
    context.board.enter(Stage.TRAIN)
    denoiser = load_denoiser(session)
    parameters = attach(
        denoiser,
        session.layers,
        rank=context.plan.rank,
        alpha=context.plan.alpha,
        dropout=job.network.dropout,
        seed=job.optimization.seed,
    )
    context.stop.check("loading the base model")
    trainer = Trainer(
        observer=_observers(session, denoiser),
        recipe=session.recipe,
        denoiser=denoiser,
        parameters=parameters,
        samples=session.dataset.training,
        cache=session.cache,
        settings=job.optimization,
        learning_rate=context.plan.learning_rate,
        loss_settings=LossSettings(
            min_snr_gamma=job.optimization.min_snr_gamma,
            noise_offset=job.optimization.noise_offset,
            timestep_shift=job.optimization.timestep_shift,
        ),
        total_steps=session.total_steps,
        caption_dropout=job.dataset.caption_dropout,
        checkpoints=context.workspace.checkpoints(session.inputs),
        every_steps=job.checkpoints.every_steps,
        keep=job.checkpoints.keep,
        device=session.device,
        board=context.board,
        stop=context.stop,
        on_first_step=lambda: log.info("first step", seconds=context.seconds_since_start()),
    )
    trainer.run()
    log.info(
        "trained",
        steps=session.total_steps,
        loss=context.board.loss,
        seconds=context.seconds_since_start(),
    )


def brush_of(session: Session, denoiser: torch.nn.Module) -> Brush:
    """What the session's pictures are drawn with."""
    plan = session.context.plan
    return Brush(
        sampler=session.recipe.sampler([denoiser], device=session.device),
        cache=session.cache,
        sampling_steps=plan.job.validation.sampling_steps,
        guidance_scale=plan.guidance_scale,
        resolution=plan.resolution,
    )


def _observers(session: Session, denoiser: torch.nn.Module) -> Observers:
    """Who is told of steps and checkpoints."""
    validation = session.context.plan.job.validation
    folder = session.context.workspace.course(session.inputs)
    members: list[LoopObserver] = [
        Course(folder / COURSE),
        WhenSaved(session.context.keep_safe),
    ]
    if validation.sample_every_steps is not None:
        previews = Previews(
            folder,
            prompts=session.prompts,
            every_steps=validation.sample_every_steps,
            total_steps=session.total_steps,
            seed=validation.seed,
            denoiser=denoiser,
            brush=lambda: brush_of(session, denoiser),
            finished=nullcontext,
        )
        members.append(previews)
    return Observers(members)


def load_denoiser(session: Session) -> torch.nn.Module:
    """Load the base model's denoiser into the session."""
    session.denoiser = session.recipe.load_denoiser(
        device=session.device, dtype=_DTYPES[session.precision]
    )
    return session.denoiser


def _precision(wanted: Precision, device: torch.device) -> Precision:
    if wanted is Precision.AUTO:
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return Precision.BF16 if half else Precision.FP32
    if wanted is Precision.FP16:
        raise TrainerError(
            Reason.INVALID_JOB,
            "optimization.precision: fp16 loses small gradients without loss scaling, which this "
            "version does not do; use auto, bf16 or fp32",
        )
    return wanted


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return str(properties.name)
    return f"{device.type} ({torch.get_num_threads()} threads)"
