"""A watch against a server that says what it is told to: what is heard, and what is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lora_operator import watch as watch_module
from lora_operator.kube.resources import JOBS
from lora_operator.watch import Watch
from lora_operator.workqueue import Backoff

Said = list[bytes]
HANG = b"hang"
"""Say nothing more, and leave the connection open."""
CUT = b"cut"
"""Break the connection off."""


def job(name: str, version: int, note: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "note": note}


def event(kind: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def gone() -> bytes:
    return event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


class Server:
    """Lists what it is told, and answers each watch with the next of its scripts."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.version = 10
        self.scripts: list[Said | int] = []
        self.asked: list[str] = []
        """`list`, or `watch` and the version that it was to go on from."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.asked.append("list")
            items = {"items": self.listed, "metadata": {"resourceVersion": str(self.version)}}
            return web.json_response(items)
        self.asked.append(f"watch {request.query['resourceVersion']}")
        script = self.scripts.pop(0) if self.scripts else [HANG]
        if isinstance(script, int):
            return web.json_response({"message": "not now"}, status=script)
        response = web.StreamResponse()
        await response.prepare(request)
        for said in script:
            if said == HANG:
                await asyncio.Event().wait()
            if said == CUT:
                assert request.transport is not None
                request.transport.abort()
                break
            await response.write(said)
        return response


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(watch_module, "PATIENCE", Backoff(first_seconds=0.01, longest_seconds=0.02))
    monkeypatch.setattr(watch_module, "SHORTEST_SECONDS", 0.0)
    yield


@asynccontextmanager
async def watching(server: Server) -> AsyncIterator[list[str]]:
    """What is heard from a server, as `ADDED name version`."""
    heard: list[str] = []

    def take_in(_resource: object, kind: str, body: dict[str, Any]) -> None:
        meta = body["metadata"]
        heard.append(f"{kind} {meta['name']} {meta['resourceVersion']}")
        if body.get("note") == "strange":
            raise KeyError("uid")

    app = web.Application()
    app.router.add_get("/apis/batch/v1/namespaces/studio/jobs", server.answer)
    async with TestServer(app) as http, aiohttp.ClientSession() as session:
        watch = Watch(
            session=session,
            server=str(http.make_url("")).rstrip("/"),
            resource=JOBS,
            namespace="studio",
            selector=None,
            take_in=take_in,
        )
        task = asyncio.create_task(watch.run())
        try:
            yield heard
        finally:
            assert not task.done(), "a watch ends for nobody"
            task.cancel()
            await asyncio.wait([task])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for lies in the server
            await asyncio.sleep(0.005)


async def test_a_watch_tells_what_there_is_and_then_what_changes() -> None:
    server = Server()
    server.listed = [job("a", 3), job("b", 7)]
    server.scripts = [[event("MODIFIED", job("a", 11)) + event("DELETED", job("b", 12)), HANG]]
    async with watching(server) as heard:
        await until(lambda: len(heard) == 4)
    assert heard == ["ADDED a 3", "ADDED b 7", "MODIFIED a 11", "DELETED b 12"]
    assert server.asked == ["list", "watch 10"]


async def test_a_watch_that_ended_goes_on_from_the_last_version_that_was_heard_of() -> None:
    server = Server()
    server.scripts = [
        [event("ADDED", job("a", 11))],
        [event("BOOKMARK", {"metadata": {"resourceVersion": "40"}})],
        [HANG],
    ]
    async with watching(server) as heard:
        await until(lambda: len(server.asked) == 4)
    assert server.asked == ["list", "watch 10", "watch 11", "watch 40"]
    assert heard == ["ADDED a 11"]


async def test_a_watch_that_hears_nothing_of_a_restored_server_lists_anew() -> None:
    """A version that is yet to come is accepted, and nothing is told."""
    server = Server()
    server.version = 1000
    ends = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query and not ends.is_set():
            ends.set()
            server.version = 905
            server.asked.append("silence")
            return web.Response()
        return await Server.answer(server, request)

    server.answer = answer  # type: ignore[method-assign]
    async with watching(server):
        await until(lambda: "watch 905" in server.asked)
    assert server.asked == ["list", "silence", "list", "list", "watch 905"]


async def test_a_watch_whose_versions_go_back_lists_anew() -> None:
    server = Server()
    server.scripts = [[event("MODIFIED", job("a", 9)), HANG]]
    async with watching(server) as heard:
        await until(lambda: len(server.asked) == 4)
    assert server.asked == ["list", "watch 10", "list", "watch 10"]
    assert heard == []


INTERRUPTIONS: dict[str, tuple[Said | int, list[str]]] = {
    "the version is too old, said at once": (410, ["list", "watch 10", "list", "watch 10"]),
    "the version is too old, said later": ([gone()], ["list", "watch 10", "list", "watch 10"]),
    "another error in the stream": (
        [event("ERROR", {"code": 500, "message": "decoding"})],
        ["list", "watch 10", "list", "watch 10"],
    ),
    "too many requests": (429, ["list", "watch 10", "watch 10"]),
    "a fault of the server": (503, ["list", "watch 10", "watch 10"]),
    "rights that are not there yet": (403, ["list", "watch 10", "watch 10"]),
    "a connection that breaks off": (
        [event("ADDED", job("a", 11)), CUT],
        ["list", "watch 10", "watch 11"],
    ),
    "a line that is cut short": (
        [event("ADDED", job("a", 11)), event("ADDED", job("a", 12))[:20], CUT],
        ["list", "watch 10", "watch 11"],
    ),
    "a page of a proxy": ([b"<html>\n"], ["list", "watch 10", "watch 10"]),
    "an event without an object": ([b'{"type": "ADDED"}\n'], ["list", "watch 10", "watch 10"]),
    "JSON that is no event": ([b"[1, 2]\n"], ["list", "watch 10", "watch 10"]),
}


@pytest.mark.parametrize(("script", "asked"), INTERRUPTIONS.values(), ids=INTERRUPTIONS.keys())
async def test_a_watch_goes_on_after(script: Said | int, asked: list[str]) -> None:
    server = Server()
    server.scripts = [script, [event("ADDED", job("late", 90)), HANG]]
    async with watching(server) as heard:
        await until(lambda: "ADDED late 90" in heard)
    assert server.asked == asked


async def test_a_watch_that_fell_silent_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "SILENCE_SECONDS", 0.05)
    server = Server()
    server.scripts = [[event("ADDED", job("a", 11)), HANG]]
    async with watching(server):
        await until(lambda: len(server.asked) >= 3)
    assert server.asked[:3] == ["list", "watch 10", "watch 11"]


async def test_a_watch_that_ends_at_once_is_not_opened_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "SHORTEST_SECONDS", 60.0)
    monkeypatch.setattr(watch_module, "PATIENCE", Backoff(first_seconds=60.0))
    server = Server()
    server.scripts = [[], []]
    async with watching(server):
        await until(lambda: len(server.asked) == 2)
        await asyncio.sleep(0.1)
    assert server.asked == ["list", "watch 10"]


async def test_an_object_of_megabytes_is_heard_of_whole() -> None:
    said = event("ADDED", job("a", 11, note="x" * 3_000_000))
    server = Server()
    server.scripts = [[said[i : i + 70_001] for i in range(0, len(said), 70_001)] + [HANG]]
    async with watching(server) as heard:
        await until(lambda: bool(heard))
    assert heard == ["ADDED a 11"]


async def test_an_object_that_nobody_understands_does_not_hide_the_others() -> None:
    server = Server()
    server.listed = [job("a", 1, note="strange"), job("b", 2)]
    server.scripts = [[event("MODIFIED", job("a", 11, note="strange"))], [HANG]]
    async with watching(server) as heard:
        await until(lambda: len(server.asked) == 3)
    assert heard == ["ADDED a 1", "ADDED b 2", "MODIFIED a 11"]
    assert server.asked == ["list", "watch 10", "watch 11"]
