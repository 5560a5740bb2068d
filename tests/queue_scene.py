"""One GPU, two runs and a policy: looks are taken only where a test asks for them.

A module of its own because several tests play what happens between two looks, or within one.
"""

from __future__ import annotations

from typing import Any

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_operator.actions import Actor
from lora_operator.cache import Cache
from lora_operator.gatekeeper import Gatekeeper
from lora_operator.kube.resources import JOBS, LEDGERS, PODS, POLICIES, TRAININGS
from lora_operator.labels import labels_of
from lora_operator.metrics import Metrics
from lora_operator.reconcile import Reconciler
from lora_operator.state.keys import Key
from lora_operator.status import StatusWriter
from tests.builders import NOW, APod, a_training, stamp
from tests.dictionary_api import DictionaryApi

Object = dict[str, Any]
ANNA, BEN = Key("studio", "anna"), Key("studio", "ben")


class Scene:
    """Anna's run has the only GPU, ben's waits; looks are taken only where somebody asks."""

    def __init__(self, api: DictionaryApi | None = None) -> None:
        self.api = api or DictionaryApi()
        self.cache = Cache()
        self.wakes: list[Key] = []
        self.news: list[Key] = []
        self.now = NOW
        self._version = 1000
        self.is_led_anew()

    def is_led_anew(self) -> None:
        """Another process leads, with what its watches have told it."""
        gatekeeper = self._gatekeeper = Gatekeeper(
            client=self.api,
            cache=self.cache,
            on_change=self.news.append,
            on_start=self.wakes.append,
            now=lambda: self.now,
        )
        self._reconciler = Reconciler(
            client=self.api,
            cache=self.cache,
            actor=Actor(client=self.api, cache=self.cache, default_image="lora-trainer:test"),
            writer=StatusWriter(client=self.api, identity="test"),
            metrics=Metrics(),
            progress_of={},
            gatekeeper=gatekeeper,
            now=lambda: self.now,
        )

    async def open(self) -> Scene:
        self.set_quota(1)
        for key in (ANNA, BEN):
            self.create(key.name)
            await self._reconciler.reconcile(key)
        assert self.has_job("anna")
        assert not self.has_job("ben")
        return self

    async def look(self, key: Key) -> None:
        """A look, and those after it that it asks for at once."""
        for _ in range(5):
            if await self._reconciler.reconcile(key) != 0:
                return
        raise AssertionError(f"{key} is looked at again and again")

    async def flush(self) -> None:
        """What is written down from time to time is written down now."""
        await self._gatekeeper.flush()

    def add_pod(self, pod: APod) -> None:
        """The pod of anna's Job is there, and the watch tells of it."""
        body = pod.stored()
        job = self.api.objects[JOBS.path("studio", "anna-train")]
        body["metadata"]["ownerReferences"][0]["uid"] = job["metadata"]["uid"]
        body["metadata"]["labels"] = labels_of("anna", "uid-of-anna")
        body["metadata"]["resourceVersion"] = str(self._next())
        self.api.hold(PODS, body)
        self.cache.put(PODS, body)

    def ledger(self) -> Object:
        """What of the month is stored."""
        spec: Object = self.api.objects[LEDGERS.path("studio", "2026-11")]["spec"]
        return spec

    def gpu_seconds(self) -> int:
        """Of all runs of the month, as stored."""
        rows = (*self.ledger().get("runs", ()), *self.ledger().get("users", ()))
        return sum(row.get("gpuSeconds", 0) for row in rows)

    def create(self, name: str, uid: str = "", **spec: Any) -> None:  # noqa: ANN401
        """A run is created, and the watch tells of it."""
        body = a_training().named(name).stored()
        body["metadata"] |= {"uid": uid or f"uid-of-{name}", "resourceVersion": str(self._next())}
        body["spec"] |= spec
        self.api.hold(TRAININGS, body)
        self.cache.put(TRAININGS, body)

    def set_quota(self, gpus: int) -> None:
        self.set_policy(maxConcurrentGPUs=gpus)

    def set_policy(self, **spec: Any) -> None:  # noqa: ANN401
        """The policy says this, and the watch tells of it."""
        meta = {"name": ACTING_POLICY, "namespace": "studio", "uid": "p"}
        body = {
            "apiVersion": API_VERSION,
            "kind": POLICY_KIND,
            "metadata": {**meta, "resourceVersion": str(self._next())},
            "spec": spec,
        }
        self.api.hold(POLICIES, body)
        self.cache.put(POLICIES, body)

    def being_deleted(self, name: str) -> None:
        """A run is deleted, and its object stays until its children are gone."""
        path = TRAININGS.path("studio", name)
        self.api.objects[path]["metadata"]["deletionTimestamp"] = stamp(self.now)
        self.change(TRAININGS, name)

    def change(self, resource: Any, name: str, **fields: Any) -> None:  # noqa: ANN401
        """Change an object as its owner would, and let the watch tell of it."""
        path = resource.path("studio", name)
        body = {**self.api.objects[path], **fields}
        # Its status may have been written since.
        self._version = max(self._version, int(body["metadata"]["resourceVersion"]))
        body["metadata"] = {**body["metadata"], "resourceVersion": str(self._next())}
        self.api.objects[path] = body
        self.cache.put(resource, body)

    def drop(self, resource: Any, name: str) -> None:  # noqa: ANN401
        del self.api.objects[resource.path("studio", name)]
        self.cache.drop(resource, Key("studio", name))

    def spec_of(self, name: str) -> Object:
        spec: Object = self.api.objects[TRAININGS.path("studio", name)]["spec"]
        return spec

    def has_job(self, name: str) -> bool:
        return JOBS.path("studio", f"{name}-train") in self.api.objects

    def hear_of_policy(self) -> None:
        self._gatekeeper.policy_changed("studio")

    def _next(self) -> int:
        self._version += 1
        return self._version
