"""The verdict on a finished LoRA: what it had to reach, what it reached, and why not.

A module of its own because it is a rule that platforms act on: it takes figures, loads nothing,
and a table can test it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lora_api.settings import GateSettings
from lora_api.status import ValidationStatus

_MAX_REASON = 200


class Criterion(StrEnum):
    """What the gate looks at."""

    RENDERS = "Renders"
    ALIKE = "Alike"
    HELD_OUT_LOSS = "HeldOutLoss"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one criterion."""

    criterion: Criterion
    """Which."""

    passed: bool | None
    """Whether it was reached; None where the job gives nothing to judge it by."""

    text: str
    """The figures, in a sentence."""

    def to_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {"criterion": self.criterion.value, "passed": self.passed, "text": self.text}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What was measured of a LoRA."""

    rendered: Sequence[bool]
    """For each prompt, whether all its pictures show something."""

    alike: Sequence[bool] | None
    """For each prompt, whether its samples are more alike to the training pictures than the base
    model's; None where no embedder is named or there was no room for it."""

    embedder: bool
    """Whether the job names an embedder."""

    held_out: ValidationStatus
    """The held-out losses."""

    held_out_wanted: bool
    """Whether the job holds pictures out."""


def judge(scores: Scores, gate: GateSettings) -> list[Judgement]:
    """Hold the scores against what the job asks for.

    Args:
        scores: What was measured.
        gate: What is asked for.
    """
    return [
        _renders(scores.rendered),
        _alike(scores, gate.min_alike),
        _held_out(scores, gate.min_improvement_percent),
    ]


def verdict(held_out: ValidationStatus, judgements: Sequence[Judgement]) -> ValidationStatus:
    """The figures with what the gate says of them.

    Args:
        held_out: Losses, and how many prompts are alike.
        judgements: All of them.
    """
    failed = [one.text for one in judgements if one.passed is False]
    reasons = tuple(text[:_MAX_REASON] for text in failed)
    return held_out.model_copy(update={"passed": not failed, "reasons": reasons})


def _renders(rendered: Sequence[bool]) -> Judgement:
    good = sum(rendered)
    blank = [str(number) for number, shows in enumerate(rendered, 1) if not shows]
    which = f" (not: prompt {', '.join(blank)})" if blank else ""
    text = f"{good} of {len(rendered)} prompts render{which}"
    return Judgement(Criterion.RENDERS, not blank, text)


def _alike(scores: Scores, least: int) -> Judgement:
    if not scores.embedder:
        text = "not judged: validation.embedderUri names no embedder"
        return Judgement(Criterion.ALIKE, None, text)
    if scores.alike is None:
        return Judgement(Criterion.ALIKE, False, "the similarity could not be measured")
    good, prompts = sum(scores.alike), len(scores.alike)
    needed = min(least, len(scores.rendered))
    text = (
        f"the samples of {good} of {prompts} prompts are more alike to the training pictures than "
        f"the base model's; {needed} are needed"
    )
    return Judgement(Criterion.ALIKE, good >= needed, text)


def _held_out(scores: Scores, least: float) -> Judgement:
    if not scores.held_out_wanted:
        text = "not judged: validation.heldOutImages is 0"
        return Judgement(Criterion.HELD_OUT_LOSS, None, text)
    base, lora = scores.held_out.base_loss, scores.held_out.lora_loss
    improvement = scores.held_out.improvement_percent
    if base is None or lora is None or improvement is None:
        return Judgement(Criterion.HELD_OUT_LOSS, False, "the held-out loss could not be measured")
    better = improvement >= least and (least < 0 or lora < base)
    text = (
        f"the held-out loss went from {base:.4f} to {lora:.4f}, an improvement of "
        f"{improvement:.2f} %; "
        + ("more than 0 %" if least == 0 else f"{least:g} %")
        + " is needed"
    )
    return Judgement(Criterion.HELD_OUT_LOSS, better, text)
