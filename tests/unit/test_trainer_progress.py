"""What is said of a run while it goes on."""

import math

import pytest

from lora_api.base import MAX_LEARNING_RATE
from lora_api.progress import MAX_STEPS, Progress, Stage
from lora_trainer.progress import ProgressBoard, share_of


def _course(parts: int) -> list[Progress]:
    board, seen = ProgressBoard(), []

    def look() -> None:
        seen.append(board.snapshot())

    for part in range(parts):
        board.begin_part(part, of=parts)
        board.enter(Stage.TRAIN)
        board.expect(3)
        look()
        for step in (1, 2, 3):
            board.stepped(step, loss=0.5, learning_rate=1e-4, seconds=1.0)
            look()
        board.enter(Stage.SAVE)
        look()
    board.enter(Stage.SAMPLE)
    look()
    return seen


def test_progress_never_goes_back_however_many_denoisers_are_trained() -> None:
    for parts in (1, 2):
        seen = _course(parts)
        percents = [one.percent for one in seen]
        assert percents == sorted(percents)
        assert (percents[0], percents[-1]) == (12.0, 88.0)
        steps = [one.step for one in seen]
        assert steps == sorted(steps)
        assert {one.total_steps for one in seen} == {3 * parts}
        assert steps[-1] == 3 * parts


def test_the_time_left_covers_the_denoisers_that_are_still_to_come() -> None:
    first_trained = _course(2)[3]
    assert (first_trained.step, first_trained.eta_seconds) == (3, 3.0)


def test_the_parts_of_a_stage_follow_one_another() -> None:
    board = ProgressBoard()
    board.enter(Stage.SAMPLE)
    share_of(board.advance, 0.0, 70.0)(1, 2)
    assert board.snapshot().stage_percent == 35.0
    share_of(board.advance, 70.0, 100.0)(1, 2)
    assert board.snapshot().stage_percent == 85.0


# Loss, learning rate, steps in all: what a job may ask for, and what arithmetic makes of it.
EXTREMES: dict[str, tuple[float, float, int]] = {
    "the highest learning rate that a job may name": (0.5, MAX_LEARNING_RATE, 1000),
    "a rate that an optimiser raised beyond it": (0.5, 12.5, 1000),
    "no number at all": (math.nan, math.nan, 1000),
    "infinite figures": (math.inf, math.inf, 1000),
    "the most steps that a job may ask for": (0.5, 1e-4, MAX_STEPS),
    "more steps than any job may have": (0.5, 1e-4, 1000 * MAX_STEPS),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("parts", [1, 2])
def test_whatever_comes_in_can_be_said(name: str, parts: int) -> None:
    loss, learning_rate, total_steps = EXTREMES[name]
    board = ProgressBoard()
    board.begin_part(parts - 1, of=parts)
    board.enter(Stage.TRAIN)
    board.divide(1e-3)
    board.expect(total_steps, done=total_steps)
    board.stepped(total_steps, loss=loss, learning_rate=learning_rate, seconds=1e-12)
    board.stepped(total_steps, loss=loss, learning_rate=learning_rate, seconds=1e-12)
    said = Progress.model_validate_json(board.snapshot().model_dump_json(by_alias=True))
    assert said.percent > 0
    assert said.step <= said.total_steps <= MAX_STEPS
    if learning_rate <= MAX_LEARNING_RATE:
        assert said.learning_rate == learning_rate
