"""A look over the shoulder of every request to the API server: counts, times, and reconnects.

A module of its own because the sessions of the watches and of our own client share it, and because
a LIST by a watch is the one sign that it was interrupted and deletions may have been missed.
"""

import time
from collections.abc import Callable

import aiohttp

from lora_operator.kube.resources import EVENTS, LEASES, LEDGERS, NODES, WATCHED
from lora_operator.metrics import Metrics

_KNOWN = frozenset(resource.plural for resource in (*WATCHED, EVENTS, LEASES, LEDGERS, NODES))
_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


class ApiWatch:
    """Middleware for aiohttp sessions that talk to the API server."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        on_list: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count into `metrics`; `on_list` hears of each LIST of a whole kind."""
        self._metrics = metrics
        self._on_list = on_list
        self._clock = clock
        self.watch_opened_at: dict[str, float] = {}
        """Seconds of the clock by URL path: each namespace has a watch of its own on each kind."""

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Pass the request on and note what became of it."""
        resource, is_single = _resource(request.url.path)
        verb = _verb(request.method, is_single, "watch" in request.url.query)
        begun = self._clock()
        code = "none"
        try:
            response = await handler(request)
            code = str(response.status)
        finally:
            self._metrics.api_requests.labels(verb, resource, code).inc()
            if verb != "watch":
                took = self._clock() - begun
                self._metrics.api_request_seconds.labels(verb).observe(took)
        if verb == "watch" and response.status == 200:
            self.watch_opened_at[request.url.path] = self._clock()
        if verb == "list":
            self._on_list()
        return response


def _resource(path: str) -> tuple[str, bool]:
    """Plural of the path's kind, and whether the path names one object of it."""
    parts = path.strip("/").split("/")
    if "namespaces" in parts:
        parts = parts[parts.index("namespaces") + 2 :]
    else:
        parts = parts[3:] if parts[0] == "apis" else parts[2:]
    if not parts or parts[0] not in _KNOWN:
        return "other", True
    return parts[0], len(parts) > 1


def _verb(method: str, is_single: bool, is_watch: bool) -> str:
    if method == "GET":
        return "watch" if is_watch else "get" if is_single else "list"
    return _VERBS.get(method, "other")
