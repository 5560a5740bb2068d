"""The record of a training outlives its process, and tells of no step that was undone."""

from pathlib import Path

import pytest

from lora_trainer.course import Course
from lora_trainer.observers import Observers


def _trained(path: Path, first: int, last: int, *, saved_at: int) -> None:
    course = Observers([Course(path)])
    course.began(first)
    for step in range(first + 1, last + 1):
        course.stepped(step, loss=step / 10, learning_rate=1e-4)
        if step == saved_at:
            course.saving(step)
            course.saved(step)


def _steps(path: Path) -> list[int]:
    return [point.step for point in Course(path).points()]


def test_a_step_is_recorded_once_its_checkpoint_is_due(tmp_path: Path) -> None:
    _trained(tmp_path / "course.csv", 0, 6, saved_at=4)
    assert _steps(tmp_path / "course.csv") == [1, 2, 3, 4]


def test_a_restart_goes_on_without_a_gap_and_without_a_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "course.csv"
    _trained(path, 0, 6, saved_at=4)
    _trained(path, 2, 8, saved_at=8)  # the checkpoint of step 4 was damaged
    assert _steps(path) == list(range(1, 9))


def test_a_refused_update_has_no_loss(tmp_path: Path) -> None:
    course = Course(tmp_path / "course.csv")
    course.began(0)
    course.stepped(1, loss=None, learning_rate=0.5)
    course.saving(1)
    [point] = course.points()
    assert (point.loss, point.learning_rate) == (None, 0.5)


BROKEN = {
    "a line cut short": b"step,loss,learning_rate,unix_seconds\n1,0.5,0.1,3.0\n2,0.4,0.",
    "a line without its end": b"step,loss,learning_rate,unix_seconds\n1,0.5,0.1,3.0\n2,0.4,0.1,3",
    "bytes that are no text": b"step,loss,learning_rate,unix_seconds\n1,0.5,0.1,3.0\n\xff\xfe\n",
    "too many fields": b"step,loss,learning_rate,unix_seconds\n1,0.5,0.1,3.0\n1,2,3,4,5\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_kill_left_of_a_line_is_passed_over(name: str, tmp_path: Path) -> None:
    (tmp_path / "course.csv").write_bytes(BROKEN[name])
    assert _steps(tmp_path / "course.csv") == [1]


def test_where_nothing_was_recorded_there_is_nothing(tmp_path: Path) -> None:
    assert Course(tmp_path / "course.csv").points() == []
