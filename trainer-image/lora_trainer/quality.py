"""What is drawn and measured of a saved LoRA, each part left out where it can't be made.

A module of its own because the LoRA is safe by then: nothing here is worth losing it, so every
part fails alone, and what is missing is said.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import torch
from PIL import Image

from lora_api.settings import GateSettings
from lora_api.status import ValidationStatus
from lora_trainer import log
from lora_trainer.errors import TrainerError, is_out_of_memory, is_out_of_space
from lora_trainer.gate import Judgement, Scores, judge, verdict
from lora_trainer.sample import Drawn, renders
from lora_trainer.similarity import Embed, Similarity, measure_similarity

# Enough to know what the pictures have in common.
_MAX_TRAINING_PICTURES = 64
# Of a library's error, as the report repeats it.
_MAX_WORDS = 300
_CURES = {
    "memory": "the device has too little memory; lower optimization.resolution, or use a GPU with "
    "more memory",
    "space": "the workspace has no room left; raise workspace.size",
}


@dataclass(kw_only=True, slots=True)
class Quality:
    """What is known of a LoRA once it was looked at."""

    validation: ValidationStatus = field(default_factory=ValidationStatus)
    """The figures, and the gate's verdict."""

    judgements: list[Judgement] = field(default_factory=list)
    """The gate's criteria, one by one."""

    similarities: list[Similarity] = field(default_factory=list)
    """Each prompt's samples against the training pictures."""

    drawn: list[Drawn] = field(default_factory=list)
    """Pairs of which both pictures exist."""

    missing: list[str] = field(default_factory=list)
    """What could not be made, and why."""

    embedder_digest: str | None = None
    """Digest of the embedder's files; None where the job names none."""

    @contextmanager
    def or_without(self, what: str) -> Iterator[None]:
        """Go on without `what` where it can't be made; another attempt would fail the same way.

        Args:
            what: In words.

        Raises:
            TrainerError: What the trainer itself says: a stop, a LoRA that predicts nonsense.
        """
        try:
            yield
        except TrainerError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                why = _CURES["memory"]
            elif is_out_of_space(error):
                why = _CURES["space"]
            else:
                said = " ".join(str(error).split())[:_MAX_WORDS]
                why = f"it failed with {type(error).__name__}: {said}"
                log.exception("a fault while looking at the LoRA", error)
            log.warning("left out", what=what, why=error)
            self.missing.append(f"{what}: left out, {why}")

    def keep_drawn(self, planned: Sequence[Drawn]) -> None:
        """Note which pairs are complete."""
        self.drawn = [pair for pair in planned if pair.base.exists() and pair.lora.exists()]

    def judge(self, planned: Sequence[Drawn], gate: GateSettings, *, held_out_wanted: bool) -> None:
        """Hold all that was measured against the gate.

        Args:
            planned: What had to be drawn.
            gate: What is asked for.
            held_out_wanted: Whether the job holds pictures out.
        """
        measured = bool(self.similarities)
        scores = Scores(
            rendered=[
                all(renders(pair.base) and renders(pair.lora) for pair in pairs)
                for _, pairs in groupby(planned, lambda pair: pair.number)
            ],
            alike=[one.alike for one in self.similarities] if measured else None,
            embedder=self.embedder_digest is not None,
            held_out=self.validation,
            held_out_wanted=held_out_wanted,
        )
        self.judgements = judge(scores, gate)
        if measured:
            figures = {
                "alike": sum(one.alike for one in self.similarities),
                "compared": len(self.similarities),
            }
            self.validation = self.validation.model_copy(update=figures)
        self.validation = verdict(self.validation, self.judgements)
        for one in self.judgements:
            log.info("gate", criterion=one.criterion.value, passed=one.passed, why=one.text)


def similarities_to(
    training: Sequence[Callable[[], Image.Image]],
    drawn: Sequence[Drawn],
    embed: Embed,
    *,
    check: Callable[[], None],
) -> list[Similarity]:
    """Compare samples with some of the training pictures, evenly chosen.

    Args:
        training: Each opens one picture.
        drawn: Complete pairs.
        embed: The embedder.
        check: Called between two pictures and between two prompts; may raise.
    """
    if not drawn or not training:
        return []
    every = max(1, -(-len(training) // _MAX_TRAINING_PICTURES))
    pictures = []
    for opened in training[::every]:
        check()
        pictures.append(opened())
    found = measure_similarity(embed, pictures, drawn, check=check)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found
