"""Warnings of a namespace are read once for all who wait in it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.builders import NOW
from tests.dictionary_api import DictionaryApi

from lora_operator.errors import UnavailableError
from lora_operator.kube.resources import EVENTS
from lora_operator.state.text import MAX_QUOTE
from lora_operator.warning_events import GOOD_FOR_SECONDS, WarningEvents

Object = dict[str, Any]


def an_event(name: str, uid: str, message: str, *, at: str = "", **more: str) -> Object:
    return {
        "metadata": {"name": name, "creationTimestamp": NOW.isoformat()},
        "type": "Warning",
        "reason": "Failed",
        "message": message,
        "lastTimestamp": at or NOW.isoformat(),
        "involvedObject": {"uid": uid},
    } | more


class Scene:
    def __init__(self, *events: Object) -> None:
        self.api, self.now = DictionaryApi(), 0.0
        for event in events:
            self.api.hold(EVENTS, event)
        self.warnings = WarningEvents(self.api, clock=lambda: self.now)

    async def words(self, uid: str) -> str | None:
        warned = await self.warnings.latest("studio", uid)
        return warned.message if warned is not None else None


async def test_the_latest_word_about_an_object_counts() -> None:
    scene = Scene(
        an_event("a", "1", "no such image", at="2026-01-01T00:00:09Z"),
        an_event("b", "1", "no such host", at="2026-01-01T00:00:08Z"),
        an_event("c", "2", "no such claim"),
    )
    assert await scene.words("1") == "no such image"
    assert await scene.words("2") == "no such claim"
    assert await scene.words("3") is None


async def test_what_is_normal_and_what_the_scheduler_says_explains_nothing() -> None:
    scene = Scene(
        an_event("a", "1", "pulled", type="Normal"),
        an_event("b", "2", "no GPU", reason="FailedScheduling"),
    )
    assert await scene.words("1") is None
    assert await scene.words("2") is None


async def test_all_who_ask_at_once_share_one_request_and_later_ones_its_answer() -> None:
    scene = Scene(an_event("a", "1", "no such image"))
    await asyncio.gather(*(scene.words("1") for _ in range(50)))
    scene.now = GOOD_FOR_SECONDS / 2
    assert await scene.words("1") == "no such image"
    assert len(scene.api.asked) == 1


async def test_after_two_seconds_it_is_asked_again() -> None:
    scene = Scene()
    assert await scene.words("1") is None
    scene.api.hold(EVENTS, an_event("a", "1", "no such image"))
    scene.now = GOOD_FOR_SECONDS
    assert await scene.words("1") == "no such image"


@pytest.mark.parametrize("at", ["0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "soon"])
async def test_an_event_that_nobody_can_read_is_passed_over(at: str) -> None:
    scene = Scene(an_event("a", "1", "no such image"), an_event("b", "1", "hostile", at=at))
    assert await scene.words("1") == "no such image"


async def test_of_a_long_message_one_line_is_kept() -> None:
    scene = Scene(an_event("a", "1", "no\nsuch " + "image" * 10_000))
    told = await scene.words("1")
    assert told is not None
    assert told.startswith("no such image")
    assert len(told) <= MAX_QUOTE


async def test_without_an_answer_there_is_no_explanation() -> None:
    scene = Scene(an_event("a", "1", "no such image"))
    scene.api.refusals["GET", "/events"] = UnavailableError("busy")
    assert await scene.words("1") is None
