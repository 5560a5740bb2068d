"""The stages up to the last step: load, cache, train; and the session that they share.

A module of its own because importing it imports torch: run.py gets here only when there is
something to train or draw.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.settings import MemoryStrategy, Precision
from lora_trainer import log
from lora_trainer.assembly import DTYPES, Task, build_trainer, help_train, share_threads
from lora_trainer.basemodel import BaseModel
from lora_trainer.batches import EMPTY_CAPTION
from lora_trainer.cache import Cache, fill_cache
from lora_trainer.compiling import check_compile, forget_compiled
from lora_trainer.context import Context
from lora_trainer.course import COURSE, Course
from lora_trainer.dataset import Dataset
from lora_trainer.disk import sha256_of_json
from lora_trainer.environment import threads
from lora_trainer.errors import TrainerError
from lora_trainer.group import Group
from lora_trainer.ladder import Ladder
from lora_trainer.loop import Trainer
from lora_trainer.lora import find_layers
from lora_trainer.memory import check_memory
from lora_trainer.observers import LoopObserver, Observers, WhenSaved
from lora_trainer.optimizers import check_optimizer
from lora_trainer.previews import Previews
from lora_trainer.processes import processes_for, training_together
from lora_trainer.recipes import RECIPES, LiveTexts, Recipe, TextEncoder, load_recipe
from lora_trainer.report import Facts
from lora_trainer.sample import Brush
from lora_trainer.schedule import images_per_step


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
            device=_device_name(self.device),
            prompts=self.prompts,
            processes=self.processes,
            memory=None if self.memory is None else self.memory.value,
        )


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
        cache=Cache(context.workspace.cache, base),
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
        device=_device_name(device),
        precision=session.precision.value,
        layers=len(layers),
        steps=session.total_steps,
        processes=processes,
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
    """Train from the newest checkpoint to the last step, as lean as the device's memory asks."""
    context, task = session.context, _task(session)
    ladder = Ladder(
        wanted=task.plan.job.optimization.memory,
        record=context.workspace.root / "memory.json",
        key=f"{_device_name(session.device)} {session.inputs}",
    )
    session.memory = ladder.climb_down(
        lambda rung: _attempt(session, task, rung, ladder),
        trial=lambda rung: _try(session, task, rung),
    )
    log.info(
        "trained",
        steps=session.total_steps,
        loss=context.board.loss,
        seconds=context.seconds_since_start(),
    )


def _attempt(session: Session, task: Task, rung: MemoryStrategy, ladder: Ladder) -> None:
    """Train on one rung of the memory ladder, with helpers where there are more devices."""
    context, session.denoiser = session.context, None
    context.board.enter(Stage.TRAIN)
    context.board.divide(_steps_per_epoch(session))
    helper = partial(help_train, task, rung, ladder)
    share_threads(task)
    with training_together(
        helper, size=task.processes, folder=context.workspace.root, fatal=context.fatal
    ) as group:
        trainer = build_trainer(
            task, rung, session.recipe, group=group, board=context.board, stop=context.stop
        )
        trainer.observer = _observers(session, trainer)
        trainer.run()
    torch.set_num_threads(threads())
    forget_compiled(trainer.denoiser)
    session.denoiser, session.text_encoder = trainer.denoiser, trainer.text_encoder
    for model in _text_models(trainer.text_encoder):
        model.eval()


def _text_models(encoder: TextEncoder | None) -> list[torch.nn.Module]:
    """Those that are trained too."""
    return [] if encoder is None else list(encoder.modules().values())


def _try(session: Session, task: Task, rung: MemoryStrategy) -> None:
    """See whether a rung fits, for the advice in a refusal."""
    context = session.context
    alone = Group(device=session.device)
    trainer = build_trainer(
        task, rung, session.recipe, group=alone, board=context.board, stop=context.stop
    )
    trainer.try_shapes()


def _steps_per_epoch(session: Session) -> float:
    optimization = session.context.plan.job.optimization
    return session.dataset.epoch_size / images_per_step(
        batch_size=optimization.batch_size,
        accumulation=optimization.gradient_accumulation_steps,
        processes=session.processes,
    )


def _task(session: Session) -> Task:
    plan, workspace = session.context.plan, session.context.workspace
    return Task(
        plan=plan,
        part=session.recipe.part.name,
        base=session.base,
        samples=session.dataset.training,
        cache=workspace.cache,
        layers=session.layers,
        precision=session.precision,
        total_steps=session.total_steps,
        every_steps=plan.checkpoint_steps(session.dataset.epoch_size, processes=session.processes),
        checkpoints=workspace.checkpoints(session.inputs),
        processes=session.processes,
        started=session.context.started,
    )


def brush_of(
    session: Session, denoisers: Sequence[torch.nn.Module], text_encoder: TextEncoder | None
) -> Brush:
    """What the session's pictures are drawn with."""
    plan = session.context.plan
    return Brush(
        sampler=session.recipe.sampler(denoisers, device=session.device),
        texts=session.cache if text_encoder is None else LiveTexts(text_encoder),
        sampling_steps=plan.job.validation.sampling_steps,
        guidance_scale=plan.guidance_scale,
        resolution=plan.drawing_side,
    )


def _observers(session: Session, trainer: Trainer) -> Observers:
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
            models=[trainer.denoiser, *_text_models(trainer.text_encoder)],
            device=session.device,
            alive=session.context.board.alive,
            brush=lambda: brush_of(session, [trainer.denoiser], trainer.text_encoder),
            finished=trainer.updater.finished,
        )
        members.append(previews)
    return Observers(members)


def load_denoiser(session: Session, recipe: Recipe, device: torch.device) -> torch.nn.Module:
    """One of the base model's denoisers."""
    return recipe.load_denoiser(device=device, dtype=DTYPES[session.precision])


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


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return str(properties.name)
    return f"{device.type} ({torch.get_num_threads()} threads)"
