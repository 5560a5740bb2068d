"""The HTTP server: /metrics for Prometheus, /healthz and /readyz for the kubelet.

A module of its own, and not kopf's liveness endpoint, because ours also has to say whether the
watches are alive, and one port is enough for all three.
"""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

# Each watch is reopened every few seconds. Far longer than an API server takes to come back: a
# restart of ours would not bring it back sooner.
WATCH_DEAD_SECONDS = 300.0


class WebServer:
    """Serves until stopped."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        registry: CollectorRegistry,
        is_ready: Callable[[], bool],
        watched: frozenset[str],
        watch_opened_at: dict[str, float],
    ) -> None:
        """Listen on host and port once started.

        Args:
            host: Address to listen on.
            port: TCP port.
            registry: What /metrics shows.
            is_ready: What /readyz says.
            watched: URL paths of the watches that have to be open.
            watch_opened_at: Monotonic seconds at which each of them was last opened.
        """
        self._host = host
        self._port = port
        self._registry = registry
        self._is_ready = is_ready
        self._watched = watched
        self._watch_opened_at = watch_opened_at
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
            ]
        )
        self._runner = web.AppRunner(
            app, handle_signals=False, access_log=None, shutdown_timeout=1.0
        )

    async def start(self) -> None:
        """Start serving."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _health(self, _: web.Request) -> web.Response:
        now = time.monotonic()
        dead = [
            path
            for path, opened in self._watch_opened_at.items()
            if now - opened > WATCH_DEAD_SECONDS
        ]
        if dead:
            return web.Response(status=500, text=f"no live watch on: {', '.join(sorted(dead))}\n")
        return web.Response(text="ok\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._watched <= self._watch_opened_at.keys() and self._is_ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the cache is not filled yet\n")


async def measure_lag(set_lag: Callable[[float], None], every_seconds: float = 5.0) -> None:
    """Measure forever how late the event loop wakes a sleeper."""
    while True:
        begun = time.monotonic()
        await asyncio.sleep(every_seconds)
        set_lag(max(0.0, time.monotonic() - begun - every_seconds))
