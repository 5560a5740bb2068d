"""Time is the API server's, and no jump of any clock makes it run."""

from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest
from tests.builders import NOW

from lora_operator.server_time import CATCH_UP, ServerTime

HOUR = timedelta(hours=1)


class Clocks:
    """This machine's clocks, and the API server's, two seconds apart from answer to answer."""

    def __init__(self, *, off: timedelta = timedelta()) -> None:
        self.steady, self.wall, self.server = 100.0, NOW + off, NOW
        self.time = ServerTime(steady=lambda: self.steady, wall=lambda: self.wall)
        self.pass_by(2)

    def pass_by(self, seconds: float, *, took: float = 0.0) -> None:
        """Time passes, and then the API server answers."""
        self.steady += seconds
        self.wall += timedelta(seconds=seconds)
        self.server += timedelta(seconds=seconds)
        answered = self.server - timedelta(seconds=took)
        self.time.hear(format_datetime(answered, usegmt=True), took)

    @property
    def off(self) -> timedelta:
        """How far the time that decisions are made by is from the API server's."""
        return self.time.now() - self.server


@pytest.mark.parametrize("off", [timedelta(), HOUR, -HOUR])
def test_the_time_is_the_servers_whatever_our_own_clock_says(off: timedelta) -> None:
    assert timedelta() <= Clocks(off=off).off <= timedelta(seconds=1)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_of_our_own_clock_moves_nothing(jump: timedelta) -> None:
    clocks = Clocks()
    clocks.wall += jump
    clocks.pass_by(10)
    assert clocks.off == timedelta()


def test_a_server_whose_clock_jumps_forward_is_followed_slowly() -> None:
    clocks = Clocks()
    begun = clocks.time.now()
    clocks.server += HOUR
    for _ in range(100):
        clocks.pass_by(2)
    assert clocks.time.now() - begun == timedelta(seconds=200 * (1 + CATCH_UP))
    for _ in range(20_000):
        clocks.pass_by(2)
    assert clocks.off == timedelta()


def test_a_server_whose_clock_is_set_back_is_followed_at_once() -> None:
    clocks = Clocks()
    clocks.server -= HOUR
    clocks.pass_by(2)
    assert timedelta() <= clocks.off <= timedelta(seconds=1)


def test_of_two_servers_that_disagree_the_one_that_is_behind_counts() -> None:
    clocks = Clocks()
    for turn in range(100):
        clocks.server += HOUR if turn % 2 else -HOUR
        clocks.pass_by(2)
    behind = clocks.server - HOUR
    assert clocks.time.now() - behind < timedelta(seconds=2)


def test_an_answer_that_was_long_on_its_way_sets_nothing_back() -> None:
    clocks = Clocks()
    clocks.pass_by(20, took=12)
    assert clocks.off == timedelta()


@pytest.mark.parametrize("date", ["", "yesterday", "Sun, 99 Nov 2026 12:00:00 GMT"])
def test_a_date_that_is_none_is_ignored(date: str) -> None:
    clocks = Clocks()
    before: datetime = clocks.time.now()
    clocks.time.hear(date, 0.0)
    assert clocks.time.now() == before
