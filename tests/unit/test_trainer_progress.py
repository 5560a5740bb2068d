"""What is said of a run while it goes on."""

from lora_api.progress import Progress, Stage
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
