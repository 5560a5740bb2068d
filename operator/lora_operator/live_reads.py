"""The API server asked instead of the cache: a run, or all that an irreversible act depends on.

A module of its own because "live" has to mean the same for whoever acts and whoever ends a run:
what is there is taken in, and what is gone is forgotten, whether or not a watch told so.
"""

from collections.abc import Iterable

from lora_operator.cache import Cache
from lora_operator.errors import NotFoundError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS, Resource
from lora_operator.labels import RUN_UID_LABEL, workspace_name
from lora_operator.state.keys import Key


class LiveReads:
    """Brings what the cache knows of one run up to the API server's state."""

    def __init__(self, client: KubeClient, cache: Cache) -> None:
        """Read through `client`, into `cache`."""
        self._client = client
        self._cache = cache

    async def run(self, key: Key) -> None:
        """Read the run itself."""
        await self.one(TRAININGS, key)

    async def children(self, key: Key, *, run_uid: str, jobs: Iterable[str]) -> None:
        """Read the workspace, the Jobs of these names, and all pods of the run."""
        for name in jobs:
            await self.one(JOBS, Key(key.namespace, name))
        # By name: a workspace that the cache does not know may hold the only copy of a LoRA.
        await self.one(CLAIMS, Key(key.namespace, workspace_name(key.name)))
        await self._pods(key, run_uid)

    async def one(self, resource: Resource, key: Key) -> None:
        """Read one object."""
        asked = self._cache.moment
        try:
            body = await self._client.get(resource, key.namespace, key.name)
        except NotFoundError:
            self._cache.drop(resource, key, asked=asked)
        else:
            self._cache.put(resource, body, asked=asked)

    async def _pods(self, key: Key, run_uid: str) -> None:
        asked = self._cache.moment
        selector = {"labelSelector": f"{RUN_UID_LABEL}={run_uid}"}
        pods = await self._client.list_objects(PODS, key.namespace, params=selector)
        for pod in pods:
            self._cache.put(PODS, pod, asked=asked)
        # Nobody may have told of those that are gone: after an outage the relist does not.
        alive = {pod["metadata"]["uid"] for pod in pods}
        for pod in self._cache.children(key, PODS):
            meta = pod["metadata"]
            is_the_runs = meta.get("labels", {}).get(RUN_UID_LABEL) == run_uid
            if is_the_runs and meta["uid"] not in alive:
                name = Key(key.namespace, meta["name"])
                self._cache.drop(PODS, name, uid=meta["uid"], asked=asked)
