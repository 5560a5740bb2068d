"""Pictures while the training goes on, every so many steps, where the job asks for them.

A module of its own because drawing must leave no trace in what is trained: not in the random
numbers, not in the model's mode, and not by ending the run where there is no room to draw.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from lora_trainer import log
from lora_trainer.errors import InterruptedRunError, is_out_of_memory, is_out_of_space
from lora_trainer.sample import Brush, Preview, draw_previews, heard, planned_previews
from lora_trainer.stopping import StopFlag


class Previews:
    """Draws the job's prompts with the LoRA as it is, at every n-th step.

    Args:
        folder: Where pictures go, each step's in a folder of its own.
        prompts: What to draw.
        every_steps: n.
        total_steps: The last step is left out, because the finished LoRA is drawn anyway.
        seed: Of every preview, so that they differ by the training alone.
        models: All that have an adapter.
        device: Where they are.
        alive: Called after each pass through a model, because pictures may take minutes.
        stop: Looked at after each pass, too; where one was asked for, the rest is left to the next
            attempt, so that the loop can save what is trained.
        brush: Makes what draws; asked for each time, so that nothing of it stays in memory.
        finished: Gives the model the weights that would be saved now, while it is open.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prompts: list[str],
        every_steps: int,
        total_steps: int,
        seed: int,
        models: Sequence[torch.nn.Module],
        device: torch.device,
        alive: Callable[[], None],
        stop: StopFlag,
        brush: Callable[[], Brush],
        finished: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._folder = folder
        self._prompts = prompts
        self._every_steps = every_steps
        self._total_steps = total_steps
        self._seed = seed
        self._models = list(models)
        self._alive = alive
        self._stop = stop
        self._own_gpus = [device] if device.type == "cuda" else []
        self._brush = brush
        self._finished = finished

    def began(self, step: int) -> None:
        """Draw what a kill came before; pictures of later steps come out the same and are kept."""
        if step:
            self.applied(step)

    def applied(self, step: int) -> None:
        """Draw, if it is time and an earlier attempt has not done so."""
        if step % self._every_steps or step == self._total_steps:
            return
        planned = planned_previews(self._folder, self._prompts, seed=self._seed, step=step)
        if all(preview.path.exists() for preview in planned):
            return
        try:
            self._draw(planned)
            log.info("drawn on the way", step=step, pictures=len(planned))
        except InterruptedRunError:
            log.info("stopped while drawing on the way", step=step)
        except Exception as error:
            if not (is_out_of_memory(error) or is_out_of_space(error)):
                raise
            log.warning("no room to draw on the way", step=step, why=error)

    def stepped(self, step: int, *, loss: float | None, learning_rate: float) -> None:
        """Pictures don't depend on figures."""

    def saving(self, step: int) -> None:
        """Pictures don't depend on checkpoints."""

    def saved(self, step: int) -> None:
        """Pictures don't depend on checkpoints."""

    def _look_up(self) -> None:
        self._alive()
        self._stop.check("drawing on the way")

    def _draw(self, planned: list[Preview]) -> None:
        was_training = [model for model in self._models if model.training]
        for model in was_training:
            model.eval()
        try:
            with (
                torch.random.fork_rng(devices=self._own_gpus),
                self._finished(),
                heard(self._models, self._look_up),
            ):
                draw_previews(self._brush(), planned)
        finally:
            for model in was_training:
                model.train()
