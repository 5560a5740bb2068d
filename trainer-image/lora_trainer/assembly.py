"""From a plan to a trainer whose parts fit together; the same in every process of a run.

A module of its own because the leading process and its helpers must build the very same thing
from the same facts: what a `Task` holds can be sent to another process, what is made of it can't.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_api.settings import MemoryStrategy, Precision
from lora_trainer import log
from lora_trainer.basemodel import BaseModel
from lora_trainer.batches import BatchSource, group_by_shape
from lora_trainer.cache import Cache
from lora_trainer.checkpoint import newest_step
from lora_trainer.compiling import agreed_to_compile, compile_now
from lora_trainer.dataset import Sample
from lora_trainer.ema import MovingAverage
from lora_trainer.environment import threads
from lora_trainer.errors import is_out_of_memory
from lora_trainer.group import Group
from lora_trainer.guard import Gate
from lora_trainer.ladder import Ladder
from lora_trainer.loop import Trainer
from lora_trainer.lora import attach, find_layers
from lora_trainer.memory import loads_on, may_run_out, shrink_after_adapter, shrink_before_adapter
from lora_trainer.optimizers import make_optimizer
from lora_trainer.plan import Plan
from lora_trainer.progress import ProgressBoard
from lora_trainer.recipes import RECIPES, LossSettings, Recipe, TextEncoder, load_recipe
from lora_trainer.scaling import LossScale
from lora_trainer.schedule import BatchOrder
from lora_trainer.stopping import StopFlag
from lora_trainer.update import Updater

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One training, in words that another process understands."""

    plan: Plan
    """The job with its defaults."""

    part: str
    """Name of the recipe's part that is trained."""

    base: BaseModel
    """The base model's files."""

    samples: list[Sample]
    """What is trained on."""

    cache: Path
    """Folder of their latents and embeddings, all there."""

    layers: list[str]
    """Layers that get an adapter."""

    precision: Precision
    """Arithmetic of the base model, never `auto`."""

    total_steps: int
    """How long."""

    every_steps: int
    """Steps between two checkpoints."""

    checkpoints: Path
    """Where they lie."""

    processes: int
    """How many train together."""

    started: float
    """time.time() at which the run's first process started."""


def build_trainer(
    task: Task,
    rung: MemoryStrategy,
    recipe: Recipe,
    *,
    group: Group,
    board: ProgressBoard,
    stop: StopFlag,
) -> Trainer:
    """Load the base for a rung of the memory ladder, attach the adapter, and try what is risky.

    Args:
        task: What is trained.
        rung: How memory is saved.
        recipe: The family's part.
        group: This process among those that train together.
        board: Told of every step.
        stop: Ends the training at a safe point.

    Raises:
        torch.OutOfMemoryError: It doesn't fit.
    """
    job = task.plan.job
    denoiser = recipe.load_denoiser(
        device=loads_on(rung, group.device), dtype=DTYPES[task.precision]
    )
    shrink_before_adapter(denoiser, rung, group.device)
    parameters = attach(
        denoiser,
        task.layers,
        rank=task.plan.rank,
        alpha=task.plan.alpha,
        dropout=job.network.dropout,
        seed=job.optimization.seed,
    )
    shrink_after_adapter(denoiser, rung, group.device)
    text_encoder = None
    if job.network.text_encoder:
        text_encoder = recipe.load_text_encoder(device=group.device)
        parameters |= _attach_to_text(task, text_encoder)
    stop.check("loading the base model")
    trainer = _trainer(task, recipe, denoiser, parameters, group=group, board=board, stop=stop)
    trainer.text_encoder = text_encoder
    _try_out(trainer)
    return trainer


def _try_out(trainer: Trainer) -> None:
    """See that it fits, and compile where that pays."""
    switch, source = trainer.settings.compile, trainer.source
    seconds = trainer.try_shapes() if may_run_out(trainer.group.device) else None
    if agreed_to_compile(
        switch,
        trainer.group,
        steps=trainer.total_steps - newest_step(trainer.checkpoints),
        step_seconds=None if seconds is None else seconds * source.accumulation,
        shapes=source.order.groups,
    ):
        compile_now(trainer.denoiser, trainer.try_shapes, switch=switch)


def _attach_to_text(task: Task, encoder: TextEncoder) -> dict[str, torch.nn.Parameter]:
    """Put adapters on the text encoders; their parameters have the component's name before them."""
    job, targets = task.plan.job, RECIPES[task.plan.job.recipe].text_encoder_modules
    parameters: dict[str, torch.nn.Parameter] = {}
    for component, model in encoder.modules().items():
        attached = attach(
            model,
            find_layers(model, targets),
            rank=task.plan.rank,
            alpha=task.plan.alpha,
            dropout=job.network.dropout,
            seed=job.optimization.seed,
        )
        parameters |= {f"{component}.{name}": one for name, one in attached.items()}
        model.train()  # for the LoRA's dropout; CLIP has none of its own
    return parameters


def help_train(task: Task, rung: MemoryStrategy, ladder: Ladder, group: Group) -> None:
    """What a helper does while the first process trains."""
    share_threads(task)
    stop = StopFlag()
    stop.install()
    recipes = load_recipe(task.plan.job.recipe, task.base).experts()
    recipe = next(recipe for recipe in recipes if recipe.part.name == task.part)
    try:
        trainer = build_trainer(task, rung, recipe, group=group, board=ProgressBoard(), stop=stop)
        trainer.run()
    except Exception as error:
        if is_out_of_memory(error):
            ladder.step_down(rung)
        raise


def share_threads(task: Task) -> None:
    """Give this process its part of the CPUs, while several train on them."""
    torch.set_num_threads(max(1, threads() // task.processes))


def _trainer(
    task: Task,
    recipe: Recipe,
    denoiser: torch.nn.Module,
    parameters: dict[str, torch.nn.Parameter],
    *,
    group: Group,
    board: ProgressBoard,
    stop: StopFlag,
) -> Trainer:
    job, settings = task.plan.job, task.plan.job.optimization
    return Trainer(
        recipe=recipe,
        denoiser=denoiser,
        source=BatchSource(
            samples=task.samples,
            order=BatchOrder(
                group_by_shape(task.samples), batch_size=settings.batch_size, seed=settings.seed
            ),
            cache=Cache(task.cache, task.base, recipe=job.recipe),
            seed=settings.seed,
            accumulation=settings.gradient_accumulation_steps,
            caption_dropout=job.dataset.caption_dropout,
            group=group,
        ),
        updater=_updater(task, parameters, group),
        settings=settings,
        learning_rate=task.plan.learning_rate,
        loss_settings=LossSettings(
            min_snr_gamma=settings.min_snr_gamma,
            noise_offset=settings.noise_offset,
            timestep_shift=settings.timestep_shift,
        ),
        total_steps=task.total_steps,
        checkpoints=task.checkpoints,
        every_steps=task.every_steps,
        keep=job.checkpoints.keep,
        group=group,
        board=board,
        stop=stop,
        on_first_step=lambda: log.info(
            "first step", seconds=round(time.time() - task.started, 3), process=group.rank
        ),
    )


def _updater(task: Task, parameters: dict[str, torch.nn.Parameter], group: Group) -> Updater:
    settings = task.plan.job.optimization
    decay = settings.ema_decay
    return Updater(
        parameters=parameters,
        optimizer=make_optimizer(
            settings.optimizer,
            parameters.values(),
            learning_rate=task.plan.learning_rate,
            weight_decay=settings.weight_decay,
        ),
        gate=Gate(group.device),
        max_grad_norm=settings.max_grad_norm,
        group=group,
        scale=LossScale(group.device) if task.precision is Precision.FP16 else None,
        average=None if decay is None else MovingAverage(parameters, decay=decay),
    )
