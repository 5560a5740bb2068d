"""Removing what carries our labels and belongs to no run.

It is left by a restored backup, a stripped ownerReference, a garbage collector that does not run.
A module of its own because nothing else deletes what no decision speaks of: what is meant by
"belongs to no run", and how sure one has to be, is said here once.
"""

import asyncio
from collections.abc import Iterable, Set

from lora_api import GROUP
from lora_api.training import KIND
from lora_operator.errors import ConflictError, NotFoundError, OperatorError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import CHILDREN, TRAININGS, Resource
from lora_operator.labels import CHILD_SELECTOR, RUN_LABEL, RUN_UID_LABEL
from lora_operator.logs import log
from lora_operator.metrics import Metrics
from lora_operator.state.keys import Object

EVERY_SECONDS = 600.0


def is_orphan(body: Object, run_uids: Set[str]) -> bool:
    """Whether nothing that exists owns this child of ours, nor will anybody else remove it.

    Args:
        body: An object that carries our labels; its metadata is enough.
        run_uids: Uids of all runs there are.
    """
    meta = body["metadata"]
    owners = meta.get("ownerReferences") or []
    if "deletionTimestamp" in meta or meta["labels"][RUN_UID_LABEL] in run_uids:
        return False
    # Another owner (a pod's Job, for instance) keeps it or takes it along.
    return all(
        owner["kind"] == KIND
        and owner["apiVersion"].partition("/")[0] == GROUP
        and owner["uid"] not in run_uids
        for owner in owners
    )


class OrphanSweeper:
    """Looks from time to time; what is an orphan twice in a row, and once more live, goes."""

    def __init__(
        self, *, client: KubeClient, metrics: Metrics, namespaces: tuple[str, ...]
    ) -> None:
        """Use a guarded client: only a leader may delete."""
        self._client = client
        self._metrics = metrics
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._suspects: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Sweep forever."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.sweep()
            except OperatorError as error:
                log("orphan sweep failed", reason=error.reason, message=error.message)

    async def sweep(self) -> None:
        """Look once, and remove what was an orphan at the last look, too."""
        children = [(kind, body) for kind in CHILDREN for body in await self._list(kind)]
        # Read after its children: a run is always older than what was made for it.
        run_uids = {body["metadata"]["uid"] for body in await self._list(TRAININGS)}
        orphans = [(kind, body) for kind, body in children if is_orphan(body, run_uids)]
        known, self._suspects = self._suspects, frozenset(_uids(body for _, body in orphans))
        for kind, body in orphans:
            if body["metadata"]["uid"] in known:
                await self._remove(kind, body)

    async def _list(self, kind: Resource) -> list[Object]:
        selector = None if kind is TRAININGS else CHILD_SELECTOR
        found = []
        for namespace in self._namespaces:
            items = self._client.list_metadata(kind, namespace, label_selector=selector)
            found += [item async for item in items]
        return found

    async def _remove(self, kind: Resource, body: Object) -> None:
        meta = body["metadata"]
        if await self._has_run(meta):
            return
        try:
            await self._client.delete(
                kind,
                meta["namespace"],
                meta["name"],
                uid=meta["uid"],
                propagation="Background",
            )
        except (NotFoundError, ConflictError):
            return
        self._metrics.orphans_removed.labels(kind.plural).inc()
        log(
            "orphan removed",
            resource=kind.plural,
            object=f"{meta['namespace']}/{meta['name']}",
            run_uid=meta["labels"][RUN_UID_LABEL],
        )

    async def _has_run(self, meta: Object) -> bool:
        name = meta["labels"].get(RUN_LABEL)
        if not name:
            return False
        try:
            run = await self._client.get(TRAININGS, meta["namespace"], name)
        except NotFoundError:
            return False
        uid: str = run["metadata"]["uid"]
        return bool(uid == meta["labels"][RUN_UID_LABEL])


def _uids(bodies: Iterable[Object]) -> Iterable[str]:
    return (body["metadata"]["uid"] for body in bodies)
