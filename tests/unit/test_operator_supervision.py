"""What ends the process: any part of it that ends, with a reason; and what must not end it."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lora_operator.app import App, End
from lora_operator.cache import Cache
from lora_operator.errors import LeadershipLostError, NotLeaderError, UnavailableError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.credentials import Connection
from lora_operator.kube.resources import PODS
from lora_operator.metrics import Metrics
from lora_operator.settings import Settings
from lora_operator.sweep import Sweeper


async def break_down() -> None:
    raise ValueError("a fault of ours")


async def do_nothing() -> None:
    pass


async def last() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> App:
    """An operator whose watches are up and silent."""
    connection = Connection(
        server="http://127.0.0.1:1",
        namespace="studio",
        in_cluster=False,
        ssl_context=ssl.create_default_context(),
        headers=dict,
    )
    app = App(Settings(leader_elect=False, host="127.0.0.1", port=0, workers=1), connection)

    async def yes(stop: asyncio.Event) -> bool:
        return not stop.is_set()

    async def watch() -> asyncio.Task[None]:
        app._feed.started.set()
        return asyncio.create_task(app._feed._stop.wait(), name="kopf")  # type: ignore[arg-type]

    monkeypatch.setattr(app, "_until_crd", yes)
    monkeypatch.setattr(app._feed, "start", watch)
    monkeypatch.setattr(app._sweeper, "wait_for_sync", do_nothing)
    return app


def parts(app: App) -> dict[str, tuple[object, str]]:
    return {
        "the sweeper": (app._sweeper, "run"),
        "the puller": (app._puller, "run"),
        "a worker": (app._workers, "_work"),
        "the Lease": (app._elector, "hold"),
    }


@pytest.mark.parametrize("part", ["the sweeper", "the puller", "a worker"])
async def test_the_process_ends_with_a_reason_when_this_part_breaks_down(
    app: App, part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(*parts(app)[part], break_down)
    with caplog.at_level(logging.ERROR, logger="lora_operator"):
        assert await soon(app.run(asyncio.Event())) == 1
    await app.close()
    (record,) = [record for record in caplog.records if record.getMessage() == "ending"]
    told = record.__dict__["lora_fields"]
    assert (told["reason"], told["message"]) == ("ValueError", "a fault of ours")
    assert told["part"] in {"sweeper", "puller", "worker-0"}


async def test_the_process_ends_well_when_it_is_told_to(app: App) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, stop.set)
    assert await soon(app.run(stop)) == 0
    await app.close()


async def test_the_lease_is_given_back_once_nobody_renews_it_any_more(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    async def hold() -> None:
        try:
            await last()
        finally:
            order.append("renewed no more")

    async def release() -> None:
        order.append("given back")

    app._settings = replace(app._settings, leader_elect=True)
    monkeypatch.setattr(app._elector, "acquire", do_nothing)
    monkeypatch.setattr(app._elector, "hold", hold)
    monkeypatch.setattr(app._elector, "release", release)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, stop.set)
    assert await soon(app.run(stop)) == 0
    await app.close()
    assert order == ["renewed no more", "given back"]


async def lose_the_lease() -> None:
    raise LeadershipLostError("somebody else holds it")


async def be_refused_a_write() -> None:
    raise NotLeaderError("this replica does not hold the Lease")


ENDS: dict[str, tuple[dict[str, Callable[[], Coroutine[Any, Any, None]]], bool, End]] = {
    "the Lease is lost": ({"the Lease": lose_the_lease}, False, End.LEASE_LOST),
    "a part hears of it first": ({"the sweeper": be_refused_a_write}, False, End.LEASE_LOST),
    "a part breaks down as the Lease is lost": (
        {"the Lease": lose_the_lease, "the sweeper": break_down},
        False,
        End.BROKEN,
    ),
    "it is told to stop after the Lease was lost": (
        {"the Lease": lose_the_lease},
        True,
        End.STOPPED,
    ),
    "it is told to stop after a part broke down": ({"the sweeper": break_down}, True, End.BROKEN),
}


@pytest.mark.parametrize("sentence", ENDS)
async def test_a_process_begins_anew_only_where_nothing_but_the_lease_is_lost(
    sentence: str, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, told_to_stop, expected = ENDS[sentence]
    stop = asyncio.Event()

    async def finish() -> None:
        if told_to_stop:
            stop.set()

    app._settings = replace(app._settings, leader_elect=True)
    for name in ("acquire", "release"):
        monkeypatch.setattr(app._elector, name, do_nothing)
    monkeypatch.setattr(app._elector, "hold", last)
    monkeypatch.setattr(app._workers, "stop", finish)
    for part, end in broken.items():
        monkeypatch.setattr(*parts(app)[part], end)
    assert await soon(app.run(stop)) is expected
    await app.close()


async def soon(work: Coroutine[Any, Any, int]) -> int:
    async with asyncio.timeout(5):
        return await work


@pytest.mark.parametrize("body", ["<html>a proxy's greeting</html>", "", "[]", '"ok"'])
async def test_an_answer_that_is_no_json_object_is_no_answer(body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    served = web.Application()
    served.router.add_get("/{path:.*}", answer)
    async with TestServer(served) as server, aiohttp.ClientSession() as session:
        client = KubeClient(session=session, server=f"http://127.0.0.1:{server.port}")
        with pytest.raises(UnavailableError, match=r"GET /api/v1/namespaces/studio/pods/x: .*JSON"):
            await client.get(PODS, "studio", "x")


@pytest.mark.parametrize("status", [503, 403])
async def test_a_cache_that_can_not_be_filled_for_now_is_filled_later(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_operator.sweep.SYNC_RETRY_SECONDS", 0.0)
    refused = iter((status, status))

    async def answer(_: web.Request) -> web.Response:
        empty: dict[str, object] = {"metadata": {}, "items": []}
        return web.json_response(empty, status=next(refused, 200))

    served = web.Application()
    served.router.add_get("/{path:.*}", answer)
    metrics = Metrics()
    async with TestServer(served) as server, aiohttp.ClientSession() as session:
        sweeper = Sweeper(
            client=KubeClient(session=session, server=f"http://127.0.0.1:{server.port}"),
            cache=Cache(),
            metrics=metrics,
            namespaces=(),
            on_change=lambda _: None,
        )
        async with asyncio.timeout(5):
            await sweeper.wait_for_sync()
    assert metrics.registry.get_sample_value("lora_operator_synced") == 1
