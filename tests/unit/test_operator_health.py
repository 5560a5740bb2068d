"""What the probes say, by which watches were opened and when."""

import time

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lora_operator.api_watch import ApiWatch
from lora_operator.kube.resources import JOBS, WATCHED, watched_paths
from lora_operator.metrics import Metrics
from lora_operator.web import WATCH_DEAD_SECONDS, WebServer

NAMESPACES = ("a", "b")
ALL = {resource.path(namespace) for resource in WATCHED for namespace in NAMESPACES}
ON_B = JOBS.path("b")


class Clock:
    """A clock that is set by hand, so that an old watch need not be waited for."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


async def open_watches(watch: ApiWatch, paths: set[str], status: int = 200) -> None:
    """Open watches as the feed does."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="{}")

    served = web.Application()
    served.router.add_get("/{path:.*}", answer)
    async with TestServer(served) as api, aiohttp.ClientSession(middlewares=(watch,)) as session:
        for path in paths:
            url = f"http://127.0.0.1:{api.port}{path}?watch=true"
            async with session.get(url):
                pass


async def probe(watch: ApiWatch, path: str) -> tuple[int, str]:
    """What the kubelet is told."""
    server = WebServer(
        host="127.0.0.1",
        port=0,
        registry=Metrics().registry,
        is_ready=lambda: True,
        watched=watched_paths(NAMESPACES),
        watch_opened_at=watch.watch_opened_at,
    )
    async with (
        TestServer(server._runner.app) as served,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{served.port}{path}") as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("sentence", "opened", "reopened", "ready", "healthy"),
    [
        ("every watch is open", ALL, ALL, 200, 200),
        ("no watch is open yet", set(), set(), 503, 200),
        ("the watch on one kind in one namespace is missing", ALL - {ON_B}, ALL, 503, 200),
        ("the watch on one kind in one namespace is dead", ALL, ALL - {ON_B}, 200, 500),
        ("all watches are dead", ALL, set(), 200, 500),
    ],
)
async def test_probes_look_at_each_watch_when(
    sentence: str, opened: set[str], reopened: set[str], ready: int, healthy: int
) -> None:
    clock = Clock()
    watch = ApiWatch(metrics=Metrics(), clock=clock)
    clock.now -= 2 * WATCH_DEAD_SECONDS
    await open_watches(watch, opened)
    assert (await probe(watch, "/readyz"))[0] == ready, sentence
    clock.now += 2 * WATCH_DEAD_SECONDS
    await open_watches(watch, reopened)
    code, text = await probe(watch, "/healthz")
    assert code == healthy, sentence
    assert all(path in text for path in opened - reopened)


async def test_a_watch_that_was_refused_does_not_live() -> None:
    watch = ApiWatch(metrics=Metrics())
    await open_watches(watch, ALL, status=403)
    assert (await probe(watch, "/readyz"))[0] == 503
