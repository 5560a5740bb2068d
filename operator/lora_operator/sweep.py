"""Evicting ghosts: what the cache still holds but the API server no longer has.

A module of its own because a watch that reconnects lists what exists and never says what vanished
meanwhile; somebody has to compare. What vanished may also be the future: after a restore from a
backup the API server holds earlier states than those that were heard of.
"""

import asyncio
from collections.abc import Callable

from lora_operator.cache import Cache, is_later, run_of, version_of
from lora_operator.errors import ApiError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import CHILDREN, WATCHED, Resource
from lora_operator.labels import CHILD_SELECTOR
from lora_operator.live_reads import LiveReads
from lora_operator.logs import log
from lora_operator.metrics import Metrics
from lora_operator.state.keys import Key

EVERY_SECONDS = 180.0
# A reconnect lists four kinds, perhaps several times; one sweep shortly after answers them all.
SETTLE_SECONDS = 5.0
SYNC_POLL_SECONDS = 0.05
SYNC_RELIST_SECONDS = 5.0
SYNC_RETRY_SECONDS = 1.0


class Sweeper:
    """Compares the cache with metadata-only lists, from time to time and after reconnects."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cache: Cache,
        metrics: Metrics,
        namespaces: tuple[str, ...],
        on_change: Callable[[Key], None],
    ) -> None:
        """Wire the sweeper; `on_change` hears of each run that lost something."""
        self._client = client
        self._cache = cache
        self._live = LiveReads(client, cache)
        self._metrics = metrics
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._on_change = on_change
        self._wish = asyncio.Event()

    def ask(self) -> None:
        """Ask for a sweep soon, because a watch was interrupted."""
        self._wish.set()

    async def wait_for_sync(self) -> None:
        """Wait until the cache holds everything that exists now, for as long as that takes.

        An API server that is down or has just started (it refuses everybody until it has read its
        roles) is no reason to end: each end makes the kubelet wait longer before the next start.
        """
        while True:
            try:
                missing = {kind: set(await self._listed(kind)) for kind in WATCHED}
            except ApiError as error:
                log("cache not filled yet", reason=error.reason, message=error.message)
                await asyncio.sleep(SYNC_RETRY_SECONDS)
                continue
            waited = 0.0
            while waited < SYNC_RELIST_SECONDS:
                missing = {
                    kind: uids - self._cache.uids(kind).keys() for kind, uids in missing.items()
                }
                if not any(missing.values()):
                    self._wish.clear()
                    self._metrics.synced.set(1)
                    return
                await asyncio.sleep(SYNC_POLL_SECONDS)
                waited += SYNC_POLL_SECONDS

    async def run(self) -> None:
        """Sweep forever."""
        while True:
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._wish.wait()
                await asyncio.sleep(SETTLE_SECONDS)
            except TimeoutError:
                pass
            self._wish.clear()
            try:
                await self.sweep()
            except ApiError as error:
                log("sweep failed", reason=error.reason, message=error.message)
                self._wish.set()

    async def sweep(self) -> None:
        """Compare once."""
        for kind in WATCHED:
            # Taken before the list is read, so that what appears meanwhile is no suspect.
            known = {body["metadata"]["uid"]: version_of(body) for body in self._cache.all(kind)}
            listed = await self._listed(kind)
            await self._undo_lost_future(kind, known, listed)
            ghosts = known.keys() - listed.keys()
            if not ghosts:
                continue
            self._metrics.ghosts_evicted.labels(kind.plural).inc(len(ghosts))
            log("ghosts evicted", resource=kind.plural, count=len(ghosts))
            for run in self._cache.evict(kind, ghosts):
                self._on_change(run)

    async def _undo_lost_future(
        self, kind: Resource, known: dict[str, str], listed: dict[str, str]
    ) -> None:
        """Read what the API server shows in an earlier state than was known before it was asked."""
        keys = self._cache.uids(kind)
        lost = [
            uid
            for uid in known.keys() & listed.keys() & keys.keys()
            if is_later(known[uid], listed[uid])
        ]
        if lost:
            log("the API server went back in time", resource=kind.plural, count=len(lost))
        for uid in lost:
            await self._live.one(kind, keys[uid])
            body = self._cache.get(kind, keys[uid])
            run = run_of(kind, body) if body is not None else None
            if run is not None:
                self._on_change(run)

    async def _listed(self, kind: Resource) -> dict[str, str]:
        """Uids of all there are, with the version of each."""
        selector = CHILD_SELECTOR if kind in CHILDREN else None
        found = {}
        for namespace in self._namespaces:
            items = self._client.list_metadata(kind, namespace, label_selector=selector)
            async for item in items:
                found[item["metadata"]["uid"]] = version_of(item)
        return found
