"""One watch: lists a kind, then hears of each change of it, for as long as the process lives.

A module of its own because this is a protocol with a few traps (versions that are too old, silent
connections, answers in the middle of a stream that are errors), and nothing else knows of them.
The words follow "Efficient detection of changes" in Kubernetes' API concepts.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import aiohttp

from lora_operator.errors import ApiError, UnavailableError
from lora_operator.kube.client import KubeClient, Object, api_error
from lora_operator.kube.resources import Resource
from lora_operator.logs import log
from lora_operator.workqueue import Backoff

# The server ends each watch after this, having told how far it got; that a new one was opened shows
# that the feed lives. Short, because a connection that fell silent looks just like one on which
# nothing happens, and a status must not be wrong for longer than half a minute.
WATCH_SECONDS = 20
# A watch that is still open then was not ended by the server: its connection is dead.
SILENCE_SECONDS = WATCH_SECONDS + 4
GONE = 410
# Outages pass: it is tried for ever, and soon enough after the end of one.
PATIENCE = Backoff(first_seconds=0.5, longest_seconds=4.0)
# An answer that ends sooner is as good as none: opening it anew at once would be a flood.
SHORTEST_SECONDS = 1.0

TakeIn = Callable[[Resource, str, Object], None]


class Watch:
    """Follows one kind in one namespace, or in all."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        server: str,
        resource: Resource,
        namespace: str | None,
        selector: str | None,
        take_in: TakeIn,
    ) -> None:
        """Wire the watch.

        Args:
            session: Carries credentials by itself.
            server: Base URL of the API server.
            resource: The kind.
            namespace: Where to look; None for everywhere.
            selector: Which labels to look for; None for all objects.
            take_in: Told each object with ADDED, MODIFIED or DELETED, in the server's order.
        """
        self._session = session
        self._server = server
        self._client = KubeClient(session=session, server=server)
        self._resource = resource
        self._namespace = namespace
        self._params = {"labelSelector": selector} if selector else {}
        self._take_in = take_in
        self._version = ""
        self._failures = 0

    async def run(self) -> None:
        """List and follow, for ever."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._follow()
            except ApiError as error:
                if error.status == GONE:
                    self._version = ""
                await self._wait(error)

    async def _list(self) -> None:
        version = ""
        async for page in self._client.pages(self._resource, self._namespace, self._params):
            for item in page.get("items") or ():
                self._tell("ADDED", item)
            version = str((page.get("metadata") or {}).get("resourceVersion", ""))
        if not version:
            raise UnavailableError("a list came without the version that it shows")
        self._version = version

    async def _follow(self) -> None:
        """Hear of changes until the server ends the watch.

        Raises:
            ApiError: It can't be heard for now; with status 410, not from our version on.
        """
        begun, is_silent = time.monotonic(), True
        async with aclosing(self._events()) as events:
            async for event in events:
                is_silent = False
                self._hear(event)
        if time.monotonic() - begun < SHORTEST_SECONDS:
            raise UnavailableError("the watch ended as soon as it had begun")
        if is_silent and await self._is_in_the_future():
            self._version = ""
        self._failures = 0

    async def _is_in_the_future(self) -> bool:
        """Whether our version is yet to come, as after a restore of etcd from a backup.

        A watch from there on is accepted and hears nothing, not even a bookmark, until as many
        changes were made again.
        """
        version = ""
        first = {**self._params, "limit": "1"}
        async for page in self._client.pages(self._resource, self._namespace, first):
            version = str((page.get("metadata") or {}).get("resourceVersion", ""))
            break
        return is_before(version, self._version)

    def _hear(self, event: Object) -> None:
        kind, body = event["type"], event["object"]
        if kind == "ERROR":
            self._version = ""  # whatever it is about, changes before it may be lacking
            raise UnavailableError(f"the watch ended with an error: {body.get('message', '')}")
        self._failures = 0
        if is_before(body["metadata"]["resourceVersion"], self._version):
            self._version = ""  # the store was restored: whatever was heard may never have been
            raise UnavailableError("the API server went back in time")
        self._version = body["metadata"]["resourceVersion"]
        if kind != "BOOKMARK":
            self._tell(kind, body)

    async def _events(self) -> AsyncGenerator[Object]:
        params = {
            **self._params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        path = self._resource.path(self._namespace)
        try:
            async with self._session.get(
                self._server + path,
                params=params,
                timeout=aiohttp.ClientTimeout(total=2 * SILENCE_SECONDS, sock_read=SILENCE_SECONDS),
            ) as response:
                if response.status >= 400:
                    raise api_error("GET", path, response, await response.read())
                async for line in _lines(response.content):
                    yield _event(line)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise UnavailableError(f"GET {path}: the watch broke off ({error!r})") from error

    def _tell(self, kind: str, body: Object) -> None:
        try:
            self._take_in(self._resource, kind, body)
        except (
            Exception
        ) as error:  # one strange object must not keep the others from being heard of
            log(
                "not taken in",
                level=logging.ERROR,
                resource=self._resource.plural,
                name=(body.get("metadata") or {}).get("name"),
                error=repr(error),
            )

    async def _wait(self, error: ApiError) -> None:
        self._failures += 1
        asked = error.retry_after_seconds if isinstance(error, UnavailableError) else None
        delay = max(asked or 0.0, PATIENCE.delay(self._failures, time.monotonic() % 1))
        log(
            "watch interrupted",
            level=logging.WARNING,
            resource=self._resource.plural,
            namespace=self._namespace,
            message=error.message,
            again_in=f"{delay:.1f}s",
        )
        await asyncio.sleep(delay)


def is_before(version: str, other: str) -> bool:
    """Whether a version is an earlier one; what is no number has no order."""
    return version.isdigit() and other.isdigit() and int(version) < int(other)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    # Not readline(): it gives up on lines that are longer than its buffer, and objects may be.
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        # What is there already comes without a wait: under a crowd nobody else would have a turn.
        await asyncio.sleep(0)


def _event(line: bytes) -> Object:
    """An event that can be relied on: with a type, and an object that has a version."""
    try:
        event: Object = json.loads(line)
        is_error = event["type"] == "ERROR" and isinstance(event["object"], dict)
        if is_error or isinstance(event["object"]["metadata"]["resourceVersion"], str):
            return event
    except (ValueError, KeyError, TypeError):
        pass
    # A line cut short, or a proxy's page.
    said = line[:200].decode(errors="replace")
    raise UnavailableError(f"the watch said what is no event: {said!r}")
