"""The training loop, for every model family.

A module of its own, and short, because each concern beside it is one too: what happens at step n
(schedule), what may be applied (guard), what survives (checkpoint), what is said (progress).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lora_api.settings import OptimizationSettings
from lora_trainer import log
from lora_trainer.batch import collate
from lora_trainer.cache import Cache
from lora_trainer.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from lora_trainer.dataset import Sample
from lora_trainer.guard import FiniteGuard
from lora_trainer.observers import LoopObserver, Observers
from lora_trainer.progress import ProgressBoard
from lora_trainer.recipes import LossSettings, Recipe
from lora_trainer.schedule import batch_at, learning_rate_at, seed_for
from lora_trainer.stopping import StopFlag

EMPTY_CAPTION = ""


@dataclass(kw_only=True, slots=True)
class Trainer:
    """One training: everything the loop needs, nothing of the family."""

    recipe: Recipe
    """Knows the family's loss."""

    denoiser: torch.nn.Module
    """The model with its adapter."""

    parameters: dict[str, torch.nn.Parameter]
    """What is trained."""

    samples: list[Sample]
    """What it is trained on."""

    cache: Cache
    """Their latents and embeddings."""

    settings: OptimizationSettings
    """How."""

    learning_rate: float
    """Highest learning rate."""

    loss_settings: LossSettings
    """What the job changes about the loss."""

    total_steps: int
    """How long."""

    caption_dropout: float
    """Share of samples whose caption is left empty."""

    checkpoints: Path
    """Where checkpoints go."""

    every_steps: int
    """Steps between two of them."""

    keep: int
    """How many are kept."""

    device: torch.device
    """Where it runs."""

    board: ProgressBoard
    """Told of every step."""

    stop: StopFlag
    """Looked at before every step."""

    observer: LoopObserver = field(default_factory=Observers)
    """Told of steps and checkpoints; by one process of several."""

    on_first_step: Callable[[], None] = lambda: None
    """Called once, after the first optimiser step of this attempt."""

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to the last step.

        Raises:
            InterruptedRunError: A stop was asked for; a checkpoint was saved.
            TrainerError: TrainingDiverged.
        """
        optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=self.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        first, guard = self._resume(optimizer)
        self.board.expect(self.total_steps, done=first)
        self.observer.began(first)
        self.denoiser.train()
        for step in range(first, self.total_steps):
            if self.stop.requested:
                self._save(step, optimizer, guard)
                self.stop.check(f"training (step {step} of {self.total_steps}, checkpoint saved)")
            started = time.perf_counter()
            loss, rate = self._step(step, optimizer, guard)
            self.board.stepped(
                step + 1, loss=loss, learning_rate=rate, seconds=time.perf_counter() - started
            )
            self.observer.stepped(step + 1, loss=loss, learning_rate=rate)
            if step == first:
                self.on_first_step()
            if (step + 1) % self.every_steps == 0 or step + 1 == self.total_steps:
                self._save(step + 1, optimizer, guard)
        self.denoiser.eval()

    def _step(
        self, step: int, optimizer: torch.optim.Optimizer, guard: FiniteGuard
    ) -> tuple[float | None, float]:
        """One optimiser step; returns its loss (None where it was refused) and learning rate."""
        rate = learning_rate_at(
            step,
            peak=self.learning_rate,
            warmup_steps=self.settings.warmup_steps,
            total_steps=self.total_steps,
            course=self.settings.lr_scheduler,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = [
            self.samples[index]
            for index in batch_at(
                step,
                batch_size=self.settings.batch_size,
                count=len(self.samples),
                seed=self.settings.seed,
            )
        ]
        generator = torch.Generator().manual_seed(seed_for(self.settings.seed, "step", step))
        torch.manual_seed(seed_for(self.settings.seed, "dropout", step))
        dropped = torch.rand(len(batch), generator=generator) < self.caption_dropout
        inputs = collate(
            batch,
            [
                EMPTY_CAPTION if drop else sample.caption
                for sample, drop in zip(batch, dropped.tolist(), strict=True)
            ],
            self.cache,
            levels=torch.rand(len(batch), generator=generator),
            device=self.device,
        )
        loss = self.recipe.losses(
            self.denoiser, inputs, settings=self.loss_settings, generator=generator
        ).mean()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        value = float(loss.detach())
        allowed = guard.allows(
            loss=value,
            gradient_norm=float(norm),
            step=step + 1,
            pictures=[sample.picture.name for sample in batch],
        )
        if allowed:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return (value if allowed else None), rate

    def _resume(self, optimizer: torch.optim.Optimizer) -> tuple[int, FiniteGuard]:
        state = load_checkpoint(self.checkpoints)
        if state is None:
            return 0, FiniteGuard()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state.lora[name])
        optimizer.load_state_dict(state.optimizer)
        self.board.restore_loss(state.loss)
        log.info("resumed", step=state.step, total_steps=self.total_steps)
        return state.step, FiniteGuard(state.refused_in_a_row)

    def _save(self, step: int, optimizer: torch.optim.Optimizer, guard: FiniteGuard) -> None:
        state = TrainingState(
            step=step,
            lora={name: value.detach().cpu() for name, value in self.parameters.items()},
            optimizer=optimizer.state_dict(),
            loss=self.board.loss,
            refused_in_a_row=guard.refused_in_a_row,
        )
        self.observer.saving(step)
        save_checkpoint(self.checkpoints, state, keep=self.keep)
        self.observer.saved(step)
        log.info("checkpoint", step=step, total_steps=self.total_steps)
