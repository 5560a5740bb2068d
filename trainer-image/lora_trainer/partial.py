"""The LoRA as far as it is trained, as a file that can be used, beside each checkpoint.

A module of its own because a run that is cancelled may want no more than this: whoever publishes it
then (salvage.py) needs no GPU, no base model and no torch.
"""

import shutil
from dataclasses import replace

from safetensors.torch import save

from lora_trainer import log
from lora_trainer.disk import write_bytes, write_json
from lora_trainer.file_header import with_metadata
from lora_trainer.loop import Trainer
from lora_trainer.lora import read_weights
from lora_trainer.modelspec import file_metadata
from lora_trainer.publish import CONFIG, MODEL
from lora_trainer.report import settings_of
from lora_trainer.session import Session


class Partial:
    """Writes the weights as they are into a folder of their own, and drops the one before.

    Args:
        session: The run.
        trainer: Whose weights.
    """

    def __init__(self, session: Session, trainer: Trainer) -> None:
        self._session = session
        self._trainer = trainer

    def began(self, step: int) -> None:
        """What an earlier attempt wrote stays until the next checkpoint."""

    def applied(self, step: int) -> None:
        """Nothing is written between checkpoints."""

    def stepped(self, step: int, *, loss: float | None, learning_rate: float) -> None:
        """Nothing is written between checkpoints."""

    def saving(self, step: int) -> None:
        """The checkpoint comes first."""

    def saved(self, step: int) -> None:
        """Write the file; where there is no room for it the training goes on without."""
        if step == 0:
            return
        try:
            self._write(step)
        except OSError as error:
            log.warning("the LoRA as it is now can't be written", step=step, why=error)

    def _write(self, step: int) -> None:
        session, recipe = self._session, self._session.recipe
        experts = recipe.experts()
        number = [expert.part for expert in experts].index(recipe.part)
        done = number * session.total_steps + step
        facts = replace(session.facts(), total_steps=step)
        of = {"step": done, "totalSteps": len(experts) * session.total_steps}
        data = self._weights()
        metadata = file_metadata(
            facts, recipe.part, weights=data[8 + int.from_bytes(data[:8], "little") :]
        )
        metadata["lora_trainer.partial"] = f"{of['step']} of {of['totalSteps']} steps"
        workspace = session.context.workspace
        folder = workspace.partial / f"step-{done:08d}"
        if recipe.part.file != MODEL:
            # Of a model with several denoisers, those before this one are trained to their end.
            folder.mkdir(parents=True, exist_ok=True)
            for other in workspace.result.glob("*.safetensors"):
                shutil.copyfile(other, folder / other.name)
        write_bytes(folder / recipe.part.file, with_metadata(data, metadata))
        write_json(folder / CONFIG, {**settings_of(facts), "partial": of})
        for old in workspace.partial.iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def _weights(self) -> bytes:
        trainer = self._trainer
        texts = {} if trainer.text_encoder is None else trainer.text_encoder.modules()
        with trainer.updater.finished():
            return save(
                trainer.recipe.to_file(
                    read_weights(trainer.denoiser),
                    alpha=self._session.context.plan.alpha,
                    text_weights={name: read_weights(model) for name, model in texts.items()},
                )
            )
