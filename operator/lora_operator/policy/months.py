"""The month that a run belongs to: the UTC month of its creation, by the API server's clock.

A module of its own because the operator's clock has no say in it. A run that is created a second
before midnight and seen a second after it, or seen by a clock that was set back, counts once and in
the same month.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

_WRITTEN = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


class Month(NamedTuple):
    """A calendar month in UTC."""

    year: int
    number: int

    @classmethod
    def of(cls, when: datetime) -> Month:
        """The month of an instant.

        Raises:
            ValueError: The time says nothing of its zone.
        """
        if when.tzinfo is None:
            raise ValueError(f"{when} has no time zone: a month begins at 00:00 UTC")
        there = when.astimezone(UTC)
        return cls(there.year, there.month)

    @classmethod
    def read(cls, text: str) -> Month:
        """The month written as `2026-11`.

        Raises:
            ValueError: It is written otherwise.
        """
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no month: it must be like 2026-11")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.number:02d}"

    @property
    def start(self) -> datetime:
        """Its first instant."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def next(self) -> Month:
        """The month after it."""
        return Month(self.year + 1, 1) if self.number == 12 else Month(self.year, self.number + 1)

    @property
    def previous(self) -> Month:
        """The month before it."""
        return Month(self.year - 1, 12) if self.number == 1 else Month(self.year, self.number - 1)

    @property
    def reset(self) -> datetime:
        """When the counts begin anew."""
        return self.next.start
