"""Moments are as long ago as they are, whatever becomes of the wall clock."""

from datetime import timedelta

import pytest
from tests.builders import NOW

from lora_operator.moments import Moments


class Clocks:
    def __init__(self) -> None:
        self.steady, self.wall = 100.0, NOW

    def pass_by(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += timedelta(seconds=seconds)

    def moments(self) -> Moments:
        return Moments(steady=lambda: self.steady, wall=lambda: self.wall)


@pytest.mark.parametrize("jump_seconds", [0, 3600, -3600])
def test_a_jump_of_the_wall_clock_makes_nothing_older_or_younger(jump_seconds: float) -> None:
    clocks = Clocks()
    moments = clocks.moments()
    moments.note("pod")
    clocks.pass_by(30)
    clocks.wall += timedelta(seconds=jump_seconds)
    assert clocks.wall - moments["pod"] == timedelta(seconds=30)


def test_the_first_moment_stays_until_a_new_one_is_noted() -> None:
    clocks = Clocks()
    moments = clocks.moments()
    moments.note_first("pod")
    clocks.pass_by(10)
    moments.note_first("pod")
    assert moments["pod"] == NOW
    moments.note("pod")
    assert moments["pod"] == clocks.wall


def test_what_is_not_kept_is_forgotten() -> None:
    moments = Clocks().moments()
    moments.note("one")
    moments.note("two")
    moments.keep_only({"two", "three"})
    assert set(moments) == {"two"}
