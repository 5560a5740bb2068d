"""A proxy between the operator and the real API server, which lets a test hold, count or spoil.

A module of its own because faults of the wire (an answer that is lost, a stream that falls silent,
a server that is too busy) can't be asked of a healthy API server, and because a process can be
killed exactly between two writes only by whoever hands it its answers.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import kopf
from aiohttp import web

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# Belong to one connection, not to the message.
HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "host", "keep-alive"})


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request of the operator, as a rule sees it."""

    verb: str
    path: str
    is_watch: bool
    body: bytes

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    @property
    def resource(self) -> str:
        """Plural of the kind that is asked for."""
        parts = self.path.strip("/").split("/")
        if "namespaces" in parts:
            parts = parts[parts.index("namespaces") + 2 :]
        else:
            parts = parts[3:] if parts[0] == "apis" else parts[2:]
        return parts[0] if parts else ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


Forward = Callable[[], Awaitable[web.StreamResponse]]
Rule = Callable[[Request, Forward], Awaitable[web.StreamResponse]]


async def pass_on(_: Request, forward: Forward) -> web.StreamResponse:
    """The rule that does nothing."""
    return await forward()


def refusal(code: int, reason: str, *, retry_after: int | None = None) -> web.Response:
    """An answer as the API server gives it when it can't or won't serve."""
    status = {
        **{"kind": "Status", "apiVersion": "v1", "status": "Failure"},
        **{"message": f"{reason} (by the test)", "reason": reason, "code": code},
    }
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(status, status=code, headers=headers)


class Interceptor:
    """The proxy, on a thread of its own; `rule` may be replaced at any time."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        """Stand in front of the API server of `kubeconfig`, with that file's rights.

        Args:
            kubeconfig: An administrator's.
            folder: Receives the kubeconfig of those who come through here.
        """
        self.rule: Rule = pass_on
        self.seen: list[Request] = []
        self._transports: dict[web.StreamResponse, asyncio.Transport] = {}
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self._hushed: set[web.StreamResponse] = set()
        server, self._headers, self._tls = _administrator(kubeconfig)
        self._server = server
        self._port = 0
        self._ready = threading.Event()
        work = self._serve()
        self._thread = threading.Thread(target=asyncio.run, args=(work,), daemon=True)
        self._thread.start()
        assert self._ready.wait(30), "the proxy starts"
        self.kubeconfig = folder / "intercepted.kubeconfig"
        self.kubeconfig.write_text(_kubeconfig(f"http://127.0.0.1:{self._port}"))

    def close(self) -> None:
        """End the proxy and all it holds."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def open_watches(self) -> int:
        """How many watches go through here now."""
        return len(self._transports)

    def cut_watches(self) -> None:
        """Drop every open watch without a word."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def hush_open_watches(self) -> None:
        """Let the watches that are open now stay so, and never say another word."""
        self._loop.call_soon_threadsafe(lambda: self._hushed.update(self._transports))

    def silence_watches(self, silent: bool) -> None:
        """Let open watches stay open and say nothing, or speak again."""
        turn = self._may_speak.clear if silent else self._may_speak.set
        self._loop.call_soon_threadsafe(turn)

    def _abort_all(self) -> None:
        for transport in list(self._transports.values()):
            transport.abort()

    def expire_watches(self) -> None:
        """Tell every open watch that what it wants to go on from is forgotten (410)."""
        gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}

        async def tell() -> None:
            for stream in list(self._transports):
                await stream.write(json.dumps(gone).encode() + b"\n")

        asyncio.run_coroutine_threadsafe(tell(), self._loop).result(10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=4 * 1024**2)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        ) as self._session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._port = runner.addresses[0][1]
            self._ready.set()
            await self._stop.wait()
            self._abort_all()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        told = Request(
            verb=request.method,
            path=request.path,
            is_watch="watch" in request.query,
            body=body,
        )
        self.seen.append(told)
        return await self.rule(told, lambda: self._forward(request, told))

    async def _forward(self, request: web.Request, told: Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        # Who comes through here has no credentials of its own.
        headers.pop("Authorization", None)
        async with self._session.request(
            request.method,
            self._server + request.raw_path,
            headers=headers | self._headers,
            data=told.body or None,
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
            if not told.is_watch:
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            return await self._stream(request, answer, kept)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        stream = web.StreamResponse(status=answer.status, headers=headers)
        await stream.prepare(request)
        transport = request.transport
        if transport is None:
            return stream
        self._transports[stream] = transport
        try:
            async for chunk in answer.content.iter_any():
                await self._may_speak.wait()
                if stream not in self._hushed:
                    await stream.write(chunk)
            while stream in self._hushed and not transport.is_closing():  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        except (aiohttp.ClientError, ConnectionError):
            # The server died, or whoever listened: the stream ends as it would without us.
            transport.abort()
        finally:
            del self._transports[stream]
            self._hushed.discard(stream)
        return stream


def _administrator(kubeconfig: Path) -> tuple[str, dict[str, str], ssl.SSLContext]:
    text = json.loads(kubeconfig.read_text())
    info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    assert info is not None
    assert info.server == text["clusters"][0]["cluster"]["server"]
    return info.server.rstrip("/"), dict(info.as_http_headers()), info.as_ssl_context()


def _kubeconfig(server: str) -> str:
    return json.dumps(
        {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "test"},
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": {"token": "none"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
    )
