"""The stages up to the last step: cache, and train from the newest checkpoint.

A module of its own because importing it imports torch: run.py gets here only when there is
something to train or draw.
"""

from collections.abc import Sequence
from functools import partial

import torch

from lora_api.progress import Stage
from lora_api.settings import MemoryStrategy
from lora_trainer import log
from lora_trainer.assembly import DTYPES, Task, build_trainer, help_train, share_threads
from lora_trainer.batches import EMPTY_CAPTION
from lora_trainer.cache import fill_cache
from lora_trainer.compiling import forget_compiled
from lora_trainer.course import COURSE, Course
from lora_trainer.environment import threads
from lora_trainer.group import Arithmetic, accelerated
from lora_trainer.ladder import Ladder
from lora_trainer.loop import Trainer
from lora_trainer.observers import LoopObserver, Observers, WhenSaved
from lora_trainer.partial import Partial
from lora_trainer.previews import Previews
from lora_trainer.processes import training_together
from lora_trainer.recipes import RECIPES, LiveTexts, Recipe, TextEncoder
from lora_trainer.sample import Brush
from lora_trainer.schedule import images_per_step
from lora_trainer.session import Session, device_name


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
        key=f"{device_name(session.device)} {session.inputs}",
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
        helper,
        _arithmetic(task),
        size=task.processes,
        folder=context.workspace.root,
        fatal=context.fatal,
    ) as group:
        trainer = build_trainer(
            task, rung, session.recipe, group=group, board=context.board, stop=context.stop
        )
        trainer.observer = _observers(session, trainer)
        trainer.run()
    torch.set_num_threads(threads())
    forget_compiled(trainer.denoiser)
    session.denoiser, session.text_encoder = trainer.denoiser, trainer.text_encoder
    for model in session.text_models().values():
        model.eval()


def _try(session: Session, task: Task, rung: MemoryStrategy) -> None:
    """See whether a rung fits, for the advice in a refusal."""
    context = session.context
    with accelerated(_arithmetic(task)) as alone:
        trainer = build_trainer(
            task, rung, session.recipe, group=alone, board=context.board, stop=context.stop
        )
        trainer.try_shapes()


def _arithmetic(task: Task) -> Arithmetic:
    return Arithmetic(
        precision=task.precision,
        accumulation=task.plan.job.optimization.gradient_accumulation_steps,
    )


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
        Partial(session, trainer),
        WhenSaved(session.context.keep_safe),
    ]
    if validation.sample_every_steps is not None:
        texts = trainer.text_encoder.modules().values() if trainer.text_encoder else ()
        previews = Previews(
            folder,
            prompts=session.prompts,
            every_steps=validation.sample_every_steps,
            total_steps=session.total_steps,
            seed=validation.seed,
            models=[trainer.denoiser, *texts],
            device=session.device,
            alive=session.context.board.alive,
            stop=session.context.stop,
            brush=lambda: brush_of(session, [trainer.denoiser], trainer.text_encoder),
            finished=trainer.updater.finished,
        )
        members.append(previews)
    return Observers(members)


def load_denoiser(session: Session, recipe: Recipe, device: torch.device) -> torch.nn.Module:
    """One of the base model's denoisers."""
    return recipe.load_denoiser(device=device, dtype=DTYPES[session.precision])
