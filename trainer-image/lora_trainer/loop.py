"""The training loop, for every model family.

A module of its own, and short, because each concern beside it is one too: what a step is made of
(batches), what may be applied (update, guard), what is known of it afterwards (readout), what
survives (checkpoint), what is said (progress).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from lora_api.settings import OptimizationSettings
from lora_trainer import log
from lora_trainer.ahead import made_ahead
from lora_trainer.batch import conditioning
from lora_trainer.batches import BatchSource, MicroBatch
from lora_trainer.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from lora_trainer.errors import is_out_of_memory
from lora_trainer.group import Group, Trained
from lora_trainer.guard import FiniteGuard
from lora_trainer.observers import LoopObserver, Observers
from lora_trainer.progress import ProgressBoard
from lora_trainer.readout import Readout
from lora_trainer.recipes import Batch, LiveTexts, LossSettings, Recipe, TextEncoder
from lora_trainer.schedule import learning_rate_at
from lora_trainer.stopping import StopFlag
from lora_trainer.update import Figures, Updater


@dataclass(kw_only=True, slots=True)
class Trainer:
    """One training: everything the loop needs, nothing of the family."""

    recipe: Recipe
    """Knows the family's loss."""

    denoiser: torch.nn.Module
    """The model with its adapter."""

    source: BatchSource
    """What it is trained on, step by step."""

    updater: Updater
    """What is trained, and how gradients change it."""

    settings: OptimizationSettings
    """How."""

    learning_rate: float
    """Highest learning rate."""

    loss_settings: LossSettings
    """What the job changes about the loss."""

    total_steps: int
    """How long."""

    checkpoints: Path
    """Where checkpoints go."""

    every_steps: int
    """Steps between two of them."""

    keep: int
    """How many are kept."""

    group: Group
    """The processes that train together."""

    board: ProgressBoard
    """Told of every step."""

    stop: StopFlag
    """Looked at before every batch."""

    text_encoder: TextEncoder | None = None
    """Where it is trained too, and captions must be encoded anew at each step."""

    on_first_step: Callable[[], None] = lambda: None
    """Called once, after the first optimiser step of this attempt."""

    observer: LoopObserver = field(default_factory=Observers)
    """Told of steps and checkpoints, may draw; by the process that leads."""

    guard: FiniteGuard = field(default_factory=FiniteGuard, init=False)
    """Judges what comes back from the device."""

    forward: torch.nn.Module = field(init=False)
    """What losses are computed through: alone in a trial, with the other processes in a step."""

    readout: Readout[tuple[int, float]] = field(init=False)
    """Steps (number, learning rate) whose figures are not known yet."""

    marked: float = field(default=0.0, init=False)
    """time.perf_counter() at which the steps not yet reported began."""

    def __post_init__(self) -> None:
        self.forward = Trained(self.updater.parameters.values())

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to the last step.

        Raises:
            InterruptedRunError: A stop was asked for; a checkpoint was saved.
            TrainerError: TrainingDiverged.
        """
        self.readout = Readout(self.group.device, early=self.group.leads)
        first = self._resume()
        self.board.expect(self.total_steps, done=first)
        self.observer.began(first)
        self.denoiser.train()
        # Not before the trial, in which one process may fail while another would wait for it.
        self.forward = self.group.shared(self.updater.parameters.values())
        with made_ahead(self.source.of, range(first, self.total_steps)) as steps:
            self.marked = time.perf_counter()
            for step, batches in zip(range(first, self.total_steps), steps, strict=True):
                self._step(step, batches)
                if step == first:
                    self._report(self.readout.drain())
                    self.on_first_step()
                if (step + 1) % self.every_steps == 0 or step + 1 == self.total_steps:
                    self._save(step + 1)
                self._observe(step + 1)
        self.updater.finish()
        self.denoiser.eval()

    def try_shapes(self) -> float:
        """One forward and backward pass for each shape, the largest first; nothing changes.

        Returns:
            Seconds of a pass in the steady state.

        Raises:
            torch.OutOfMemoryError: It doesn't fit, in this process or in another.
            Exception: Any other failure, in all processes at once.
        """
        seconds, fault = 0.0, None
        self.denoiser.train()
        batches = self.source.trials()
        try:
            with self.updater.reserved():
                for batch in [*batches, batches[0]]:
                    began = time.perf_counter()
                    self.updater.try_out(self.losses(batch).mean())
                    seconds = time.perf_counter() - began
        except Exception as error:
            fault = error
        if self.group.anyone(fault is not None and is_out_of_memory(fault)):
            raise torch.OutOfMemoryError("out of memory in the trial of the batches' shapes")
        if self.group.anyone(fault is not None):
            raise fault or RuntimeError("the trial of the batches' shapes failed elsewhere")
        return seconds

    def losses(self, batch: MicroBatch) -> torch.Tensor:
        """Loss of each picture of one batch, with its graph."""
        torch.manual_seed(batch.dropout_seed)
        compute = partial(
            self.recipe.losses,
            self.denoiser,
            self._inputs(batch),  # outside of autocast: text encoders run in float32
            settings=self.loss_settings,
            generator=batch.generator,
        )
        with self.group.autocast():
            losses: torch.Tensor = self.forward(compute)
        return losses

    def _inputs(self, batch: MicroBatch) -> Batch:
        """The batch; its text through the encoder as it is now, where that is trained."""
        if self.text_encoder is None:
            return batch.inputs
        texts = LiveTexts(self.text_encoder)
        text = conditioning(texts, batch.captions, device=self.group.device)
        return replace(batch.inputs, text=text)

    def _step(self, step: int, batches: list[MicroBatch]) -> None:
        rate = learning_rate_at(
            step,
            peak=self.learning_rate,
            warmup_steps=self.settings.warmup_steps,
            total_steps=self.total_steps,
            course=self.settings.lr_scheduler,
        )
        found = []
        for batch in batches:
            self._stop_where_asked(step)
            with self.group.accumulating(self.forward):
                losses = self.losses(batch)
                self.updater.backward(losses.mean())
            found.append(losses.detach())
            self.board.alive()
        figures = self.updater.apply(step, torch.cat(found), learning_rate=rate)
        self._report(self.readout.push((step, rate), figures))

    def _report(self, arrived: list[tuple[tuple[int, float], list[float]]]) -> None:
        """Tell guard and board of steps whose figures have come back."""
        now = time.perf_counter()
        seconds = (now - self.marked) / max(1, len(arrived))
        for (step, rate), row in arrived:
            figures = Figures.of(row)
            if figures.rescaled:
                log.info("loss scale lowered", step=step + 1)
            elif self.group.leads:  # sees figures first, and ends the others with the run
                self.guard.saw(
                    loss=figures.loss,
                    gradient_norm=figures.gradient_norm,
                    step=step + 1,
                    pictures=figures.at_fault(self.source.names(step)),
                )
            loss = None if figures.refused else figures.loss
            self.board.stepped(step + 1, loss=loss, learning_rate=rate, seconds=seconds)
            self.observer.stepped(step + 1, loss=loss, learning_rate=rate)
        if arrived:
            self.marked = now

    def _stop_where_asked(self, step: int) -> None:
        """End after the last whole step; of one that has begun nothing is kept."""
        if self.group.anyone(self.stop.requested):
            self._save(step)
            self.stop.request()  # another process may have been asked
            self.stop.check(f"training (step {step} of {self.total_steps}, checkpoint saved)")

    def _observe(self, step: int) -> None:
        """Show the weights; the time that takes is none of the steps'."""
        began = time.perf_counter()
        self.observer.applied(step)
        self.marked += time.perf_counter() - began

    def _resume(self) -> int:
        state = load_checkpoint(self.checkpoints)
        if state is None:
            return 0
        self.updater.restore(state)
        self.guard = FiniteGuard(state.refused_in_a_row)
        self.board.restore_loss(state.loss)
        log.info("resumed", step=state.step, total_steps=self.total_steps)
        return state.step

    def _save(self, step: int) -> None:
        self._report(self.readout.drain())
        if self.group.leads:
            state = TrainingState(
                step=step,
                loss=self.board.loss,
                refused_in_a_row=self.guard.refused_in_a_row,
                **self.updater.state(),
            )
            self.observer.saving(step)
            save_checkpoint(self.checkpoints, state, keep=self.keep)
            self.observer.saved(step)
            log.info("checkpoint", step=step, total_steps=self.total_steps)
        self.marked = time.perf_counter()
