"""kopf, reduced to what is wanted of it: lists and watches that fill the cache.

A module of its own, behind the small interface of a `Feed`, because the rest of the operator must
not notice if these events came from somewhere else one day.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import kopf

from lora_operator.admission_webhook import AdmissionWebhook
from lora_operator.cache import Cache, run_of
from lora_operator.kube.credentials import Connection, Middleware
from lora_operator.kube.resources import CHILDREN, POLICIES, WATCHED, Resource
from lora_operator.labels import CHILD_SELECTOR
from lora_operator.state.keys import Key, key_of

# The server ends each watch after this, having told how far it got; that a new one was opened shows
# that the feed lives. Short, because a connection that fell silent looks just like one on which
# nothing happens, and a status must not be wrong for longer than half a minute.
WATCH_SECONDS = 20
# A watch that is still open then was not ended by the server: its connection is dead.
SILENCE_SECONDS = WATCH_SECONDS + 4
PAGE_SIZE = 500


class Feed:
    """Keeps the cache up to date and says which run changed."""

    def __init__(
        self,
        *,
        cache: Cache,
        connection: Connection,
        middleware: Middleware,
        namespaces: tuple[str, ...],
        on_change: Callable[[Key], None],
        on_policy: Callable[[str], None],
        webhook: AdmissionWebhook | None = None,
    ) -> None:
        """Wire the feed.

        Args:
            cache: To be filled.
            connection: How to reach the API server.
            middleware: Sees each request that kopf makes.
            namespaces: Namespaces to watch; empty for all.
            on_change: Told the run that an object belongs to, when that object is news.
            on_policy: Told the namespace whose policy is news.
            webhook: Served along, for as long as watching goes on.
        """
        self._cache = cache
        self._connection = connection
        self._middleware = middleware
        self._namespaces = namespaces
        self._on_change = on_change
        self._on_policy = on_policy
        self._webhook = webhook
        self._stop = asyncio.Event()
        self.started = asyncio.Event()
        """Set once watching has begun."""

    async def start(self) -> asyncio.Task[None]:
        """Start watching.

        Returns:
            A task that ends when `stop` was called, or fails when watching can't go on.
        """
        # kopf waits for, and in the end cancels, every task that began after it; ours are ours.
        ours = asyncio.all_tasks()
        registry, settings = self._registry(), _settings()
        if self._webhook is not None:
            self._webhook.add_to(registry, settings)
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=settings,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
        )
        self.started.set()
        return asyncio.create_task(kopf.run_tasks(tasks, ignored=ours), name="kopf")

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        for resource in WATCHED:
            kopf.on.event(
                group=resource.group,
                version=resource.version,
                plural=resource.plural,
                registry=registry,
                id=f"feed-{resource.plural}",
            )(self._handler(resource))

        async def login(**_: object) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(
                server=self._connection.server,
                default_namespace=self._connection.namespace,
                aiohttp_session=self._connection.session(self._middleware),
            )

        kopf.on.login(registry=registry, id="login")(login)
        return registry

    def _handler(self, resource: Resource) -> Callable[..., Any]:
        async def take_in(*, event: kopf.RawEvent, **_: object) -> None:
            self.take_in(resource, event["type"], dict(event["object"]))

        return take_in

    def take_in(self, resource: Resource, kind: str | None, body: dict[str, Any]) -> None:
        """Update the cache by one event, and tell whose it was if it was news."""
        if kind == "DELETED":
            news = self._cache.drop(resource, key_of(body), uid=body["metadata"]["uid"])
        else:
            news = self._cache.put(resource, body)
        run = run_of(resource, body)
        if news and run is not None:
            self._on_change(run)
        if news and resource is POLICIES:
            self._on_policy(body["metadata"]["namespace"])


class _NoDiffs(kopf.DiffBaseStorage):
    """Keeps and compares nothing: else kopf copies each object of each event, and copies it again.

    That was a quarter of the operator's CPU time (benchmarks/operator).
    """

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        """Nothing of an object is compared."""
        del body, extra_fields
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was kept."""
        del body
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Keep nothing, and above all write nothing on the object."""


class _Patience:
    """Waits between tries that never end: by itself, kopf gives up after a minute of refusals.

    A class, because kopf asks for a new start at each request, and must not find a length.
    """

    def __iter__(self) -> Iterator[float]:
        return chain((0.5, 1.0, 2.0), repeat(4.0))


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    # Neither namespaces nor CRDs are watched: that would need cluster-wide rights on both.
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.chunk_size = PAGE_SIZE
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.networking.request_timeout = 15
    settings.networking.error_backoffs = _Patience()
    for resource in CHILDREN:
        selector = (resource.group, resource.version, resource.plural)
        settings.watching.label_selectors[selector] = CHILD_SELECTOR
    # worker_limit stays unset: below the number of objects it stalls the feed (300 runs: 82 s).
    logging.getLogger("kopf").setLevel(logging.WARNING)
    return settings
