"""The gate's verdict as a table: what was measured, what is asked for, what comes out."""

from dataclasses import dataclass, field, replace

import pytest

from lora_api.settings import GateSettings
from lora_api.status import ValidationStatus
from lora_trainer.gate import Criterion, Scores, judge, verdict

BETTER = ValidationStatus(
    base_loss=0.2, lora_loss=0.15, improvement_percent=25.0, held_out_images=2
)
WORSE = BETTER.model_copy(update={"lora_loss": 0.21, "improvement_percent": -5.0})
EQUAL = BETTER.model_copy(update={"lora_loss": 0.2, "improvement_percent": 0.0})
NOT_MEASURED = ValidationStatus(held_out_images=0)
GOOD = Scores(
    rendered=[True, True, True],
    alike=[True, True, False],
    embedder=True,
    held_out=BETTER,
    held_out_wanted=True,
)


@dataclass(frozen=True)
class Case:
    """What was measured, the gate, and the criteria that fail and that are not judged."""

    scores: Scores
    gate: GateSettings = field(default_factory=GateSettings)
    failed: tuple[Criterion, ...] = ()
    not_judged: tuple[Criterion, ...] = ()
    words: tuple[str, ...] = ()


CASES: dict[str, Case] = {
    "a LoRA that does all that is asked for passes": Case(GOOD),
    "a prompt that renders nothing fails, and is named": Case(
        replace(GOOD, rendered=[True, False, True]),
        failed=(Criterion.RENDERS,),
        words=("2 of 3 prompts render", "prompt 2"),
    ),
    "one of three prompts alike is too few": Case(
        replace(GOOD, alike=[True, False, False]),
        failed=(Criterion.ALIKE,),
        words=("1 of 3 prompts", "2 are needed"),
    ),
    "where there is one prompt, one is all that can be alike": Case(
        replace(GOOD, rendered=[True], alike=[True])
    ),
    "no prompt need be alike where none is asked for": Case(
        replace(GOOD, alike=[False, False, False]), GateSettings(min_alike=0)
    ),
    "without an embedder nobody judges what is alike": Case(
        replace(GOOD, alike=None, embedder=False), not_judged=(Criterion.ALIKE,)
    ),
    "an embedder that had no room fails": Case(
        replace(GOOD, alike=None),
        failed=(Criterion.ALIKE,),
        words=("similarity could not be measured",),
    ),
    "a held-out loss that grew fails": Case(
        replace(GOOD, held_out=WORSE),
        failed=(Criterion.HELD_OUT_LOSS,),
        words=("0.2000 to 0.2100", "-5.00 %", "more than 0 %"),
    ),
    "a held-out loss that stayed is no improvement": Case(
        replace(GOOD, held_out=EQUAL), failed=(Criterion.HELD_OUT_LOSS,)
    ),
    "a gate below zero lets a little loss through": Case(
        replace(GOOD, held_out=WORSE), GateSettings(min_improvement_percent=-10)
    ),
    "more improvement than there is can be asked for": Case(
        GOOD,
        GateSettings(min_improvement_percent=30),
        failed=(Criterion.HELD_OUT_LOSS,),
        words=("30 % is needed",),
    ),
    "without held-out pictures nobody judges the loss": Case(
        replace(GOOD, held_out=NOT_MEASURED, held_out_wanted=False),
        not_judged=(Criterion.HELD_OUT_LOSS,),
    ),
    "a loss that could not be measured fails": Case(
        replace(GOOD, held_out=NOT_MEASURED), failed=(Criterion.HELD_OUT_LOSS,)
    ),
    "all that fails is named": Case(
        replace(GOOD, rendered=[False], alike=[False], held_out=WORSE),
        failed=(Criterion.RENDERS, Criterion.ALIKE, Criterion.HELD_OUT_LOSS),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gate(name: str) -> None:
    case = CASES[name]
    judgements = judge(case.scores, case.gate)
    assert tuple(one.criterion for one in judgements if one.passed is False) == case.failed
    assert tuple(one.criterion for one in judgements if one.passed is None) == case.not_judged
    found = verdict(case.scores.held_out, judgements)
    assert found.passed is (not case.failed)
    assert len(found.reasons) == len(case.failed)
    assert all(word in " ".join(found.reasons) for word in case.words), found.reasons


def test_the_figures_stay_in_the_verdict() -> None:
    found = verdict(BETTER, judge(GOOD, GateSettings()))
    assert (found.base_loss, found.lora_loss, found.held_out_images) == (0.2, 0.15, 2)


def test_reasons_fit_the_status_however_many_prompts_fail() -> None:
    scores = replace(GOOD, rendered=[False] * 16, alike=[False] * 16, held_out=WORSE)
    found = verdict(WORSE, judge(scores, GateSettings(min_alike=16)))
    ValidationStatus.model_validate(found.model_dump())
