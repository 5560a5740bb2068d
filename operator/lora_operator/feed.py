"""The watches that fill the cache, and say which run is news.

A module of its own, behind the small interface of a `Feed`, because the rest of the operator must
not notice where these events come from. They came from kopf's `on.event` once: its task and queue
for each object were two fifths of the operator's CPU time under a crowd (benchmarks/operator).
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp

from lora_operator import webhook_server
from lora_operator.admission_webhook import AdmissionWebhook
from lora_operator.cache import Cache, run_of
from lora_operator.kube.credentials import Connection, Middleware
from lora_operator.kube.resources import CHILDREN, JOBS, POLICIES, WATCHED, Resource
from lora_operator.labels import CHILD_SELECTOR
from lora_operator.state.keys import Key, Object, key_of
from lora_operator.watch import Watch


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
        on_job_gone: Callable[[Object], None],
        webhook: AdmissionWebhook | None = None,
    ) -> None:
        """Wire the feed.

        Args:
            cache: To be filled.
            connection: How to reach the API server.
            middleware: Sees each request that the watches make.
            namespaces: Namespaces to watch; empty for all.
            on_change: Told the run that an object belongs to, when that object is news.
            on_policy: Told the namespace whose policy is news.
            on_job_gone: Told of a Job that the watch sees no more, as it last looked.
            webhook: Served along, for as long as watching goes on.
        """
        self._cache = cache
        self._connection = connection
        self._middleware = middleware
        self._namespaces = namespaces
        self._on_change = on_change
        self._on_policy = on_policy
        self._on_job_gone = on_job_gone
        self._webhook = webhook
        self._stop = asyncio.Event()
        self.started = asyncio.Event()
        """Set once watching has begun."""

    async def start(self) -> asyncio.Task[None]:
        """Start watching, and serving the webhook.

        Returns:
            A task that ends when `stop` was called, or fails when watching can't go on.
        """
        ours = asyncio.all_tasks()
        serving = None
        if self._webhook is not None:
            serving = await webhook_server.start(
                self._webhook, self._connection, stop=self._stop, ours=ours
            )
        watching = asyncio.create_task(self._run(serving, ours), name="watches")
        ours.add(watching)
        self.started.set()
        return watching

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    async def _run(self, serving: asyncio.Task[None] | None, ours: set[asyncio.Task[Any]]) -> None:
        async with (
            self._connection.session(self._middleware) as session,
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(watch.run()) for watch in self._watches(session)]
            ours.update(tasks)
            await (self._stop.wait() if serving is None else serving)
            for task in tasks:
                task.cancel()

    def _watches(self, session: aiohttp.ClientSession) -> Iterator[Watch]:
        for resource in WATCHED:
            for namespace in self._namespaces or (None,):
                yield Watch(
                    session=session,
                    server=self._connection.server,
                    resource=resource,
                    namespace=namespace,
                    selector=CHILD_SELECTOR if resource in CHILDREN else None,
                    take_in=self.take_in,
                )

    def take_in(self, resource: Resource, kind: str, body: dict[str, Any]) -> None:
        """Update the cache by one event, and tell whose it was if it was news."""
        if kind == "DELETED":
            news = self._cache.drop(resource, key_of(body), uid=body["metadata"]["uid"])
            if resource is JOBS:
                self._on_job_gone(body)
        else:
            news = self._cache.put(resource, body)
        run = run_of(resource, body)
        if news and run is not None:
            self._on_change(run)
        if news and resource is POLICIES:
            self._on_policy(body["metadata"]["namespace"])
