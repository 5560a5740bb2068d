"""Warnings of a namespace are read once for all who wait in it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.builders import NOW
from tests.dictionary_api import DictionaryApi, is_chosen

from lora_operator.errors import UnavailableError
from lora_operator.kube.client import PAGE_SIZE, KubeClient
from lora_operator.kube.resources import EVENTS
from lora_operator.state.text import MAX_QUOTE
from lora_operator.warning_events import (
    GOOD_FOR_ONE_SECONDS,
    GOOD_FOR_SECONDS,
    MAX_PAGE_BYTES,
    MAX_PAGES,
    MAX_PAGES_OF_ONE,
    UNREAD,
    WarningEvents,
)

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


class Archive:
    """Events behind HTTP, given out in pages as the API server does."""

    def __init__(self, *events: Object) -> None:
        self.events = list(events)
        self.requests: list[dict[str, str]] = []
        self.now = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        self.requests.append(asked)
        chosen = [e for e in self.events if is_chosen(e, asked["fieldSelector"])]
        begin, limit = int(asked.get("continue", 0)), int(asked["limit"])
        page = chosen[begin : begin + limit]
        token = str(begin + limit) if begin + limit < len(chosen) else ""
        return web.json_response({"metadata": {"continue": token}, "items": page})

    @asynccontextmanager
    async def open(self) -> AsyncIterator[WarningEvents]:
        served = web.Application()
        served.router.add_get("/{path:.*}", self.answer)
        async with TestServer(served) as server, aiohttp.ClientSession() as session:
            client = KubeClient(session=session, server=f"http://127.0.0.1:{server.port}")
            yield WarningEvents(client, clock=lambda: self.now)


def a_flood(count: int) -> list[Object]:
    return [an_event(f"flood-{n}", f"stranger {n % 7}", "x") for n in range(count)]


BOUND = MAX_PAGES * PAGE_SIZE


async def test_a_namespace_is_read_to_its_end_page_by_page() -> None:
    archive = Archive(*a_flood(PAGE_SIZE), an_event("last", "1", "no such image"))
    async with archive.open() as warnings:
        warned = await warnings.latest("studio", "1")
    assert warned is not None
    assert (warned.message, len(archive.requests)) == ("no such image", 2)


async def test_behind_too_many_events_each_object_is_asked_for_by_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    archive = Archive(*a_flood(BOUND), an_event("last", "1", "no such image"))
    with caplog.at_level(logging.WARNING, logger="lora_operator"):
        async with archive.open() as warnings:
            warned = await warnings.latest("studio", "1")
            unwarned = await warnings.latest("studio", "2")
            # Neither the namespace nor the object is asked for again so soon.
            archive.now = GOOD_FOR_ONE_SECONDS - 1
            again = await warnings.latest("studio", "1")
    assert warned is not None
    assert (warned.message, unwarned, again) == ("no such image", None, warned)
    alone = [r["fieldSelector"] for r in archive.requests[MAX_PAGES:]]
    assert [selector.rpartition(",")[2] for selector in alone] == [
        "involvedObject.uid=1",
        "involvedObject.uid=2",
    ]
    (record,) = caplog.records
    told = record.__dict__["lora_fields"]
    assert (record.getMessage(), told["namespace"], told["read"]) == (
        "warnings left unread",
        "studio",
        BOUND,
    )


async def test_where_one_object_has_too_many_that_is_said() -> None:
    archive = Archive(*(an_event(f"{n}", "1", "no such image") for n in range(BOUND + 1)))
    async with archive.open() as warnings:
        warned = await warnings.latest("studio", "1")
    assert warned is not None
    assert warned.message == "no such image" + UNREAD
    assert len(archive.requests) == MAX_PAGES + MAX_PAGES_OF_ONE


async def test_of_large_events_fewer_are_asked_for_at_a_time() -> None:
    large = [an_event(f"{n}", "stranger", "x" * (MAX_PAGE_BYTES // 10)) for n in range(20)]
    archive = Archive(*large, an_event("last", "1", "no such image"))
    async with archive.open() as warnings:
        warned = await warnings.latest("studio", "1")
    assert warned is not None
    assert warned.message == "no such image"
    assert {int(request["limit"]) for request in archive.requests} == {500, 50, 5}


async def test_an_event_that_is_too_large_hides_nobody_elses() -> None:
    hostile = an_event("a", "stranger", "x" * MAX_PAGE_BYTES)
    assert len(json.dumps(hostile)) > MAX_PAGE_BYTES
    archive = Archive(hostile, an_event("b", "1", "no such image"))
    async with archive.open() as warnings:
        warned = await warnings.latest("studio", "1")
        assert await warnings.latest("studio", "stranger") is None
    assert warned is not None
    assert warned.message == "no such image"
    assert len(archive.requests) <= 20


async def test_a_crowd_behind_too_many_events_asks_for_a_few_at_a_time() -> None:
    archive = Archive(*a_flood(BOUND + 1))
    async with archive.open() as warnings:
        await asyncio.gather(*(warnings.latest("studio", f"{n}") for n in range(50)))
        alone = archive.requests[MAX_PAGES:]
        assert 0 < len(alone) <= 4
        # Whoever had no turn has one at a later look.
        await warnings.latest("studio", "49")
    assert archive.requests[-1]["fieldSelector"].endswith("involvedObject.uid=49")
