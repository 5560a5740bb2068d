"""What makes room in a namespace's queue wakes the next run, and does not wait to be looked at.

A module of its own because runs are looked at again every half minute anyway, so a wake that is
missing would only be slow; here nothing is ever looked at that was not asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.dictionary_api import DictionaryApi
from tests.results import a_good_result

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_operator.actions import Actor
from lora_operator.cache import Cache
from lora_operator.gatekeeper import Gatekeeper
from lora_operator.kube.resources import JOBS, PODS, POLICIES, TRAININGS
from lora_operator.metrics import Metrics
from lora_operator.reconcile import Reconciler
from lora_operator.state.keys import Key
from lora_operator.status import StatusWriter

Object = dict[str, Any]
ANNA, BEN = Key("studio", "anna"), Key("studio", "ben")


class Scene:
    """Anna's run has the only GPU, ben's waits; looks are taken only where somebody asks."""

    def __init__(self) -> None:
        self.api = DictionaryApi()
        self.cache = Cache()
        self.wakes: list[Key] = []
        self.news: list[Key] = []
        self._version = 1000
        gatekeeper = self._gatekeeper = Gatekeeper(
            client=self.api,
            cache=self.cache,
            on_change=self.news.append,
            on_start=self.wakes.append,
            now=lambda: NOW,
        )
        self._reconciler = Reconciler(
            client=self.api,
            cache=self.cache,
            actor=Actor(client=self.api, cache=self.cache, default_image="lora-trainer:test"),
            writer=StatusWriter(client=self.api, identity="test"),
            metrics=Metrics(),
            progress_of={},
            gatekeeper=gatekeeper,
            now=lambda: NOW,
        )

    async def open(self) -> Scene:
        self.set_quota(1)
        for key in (ANNA, BEN):
            body = a_training().named(key.name).stored()
            body["metadata"]["uid"] = f"uid-of-{key.name}"
            self.api.hold(TRAININGS, body)
            self.cache.put(TRAININGS, body)
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

    def set_quota(self, gpus: int) -> None:
        meta = {"name": ACTING_POLICY, "namespace": "studio", "uid": "p"}
        body = {
            "apiVersion": API_VERSION,
            "kind": POLICY_KIND,
            "metadata": {**meta, "resourceVersion": str(self._next())},
            "spec": {"maxConcurrentGPUs": gpus},
        }
        self.cache.put(POLICIES, body)

    def change(self, resource: Any, name: str, **fields: Any) -> None:  # noqa: ANN401
        """Change an object as its owner would, and let the watch tell of it."""
        path = resource.path("studio", name)
        body = {**self.api.objects[path], **fields}
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


async def finish(scene: Scene) -> None:
    job = scene.api.objects[JOBS.path("studio", "anna-train")]
    pod = a_pod().ended(0, a_good_result()).stored()
    pod["metadata"]["ownerReferences"][0]["uid"] = job["metadata"]["uid"]
    scene.api.hold(PODS, pod)
    scene.cache.put(PODS, pod)
    await scene.look(ANNA)
    scene.change(JOBS, "anna-train", status=a_job().complete().stored()["status"])
    await scene.look(ANNA)


async def fail(scene: Scene) -> None:
    await scene.look(ANNA)
    scene.drop(JOBS, "anna-train")
    await scene.look(ANNA)


async def cancel(scene: Scene) -> None:
    scene.change(TRAININGS, "anna", spec={**scene.spec_of("anna"), "cancel": {}})
    scene.drop(JOBS, "anna-train")
    await scene.look(ANNA)


async def suspend(scene: Scene) -> None:
    scene.change(TRAININGS, "anna", spec={**scene.spec_of("anna"), "suspend": True})
    await scene.look(ANNA)


async def delete(scene: Scene) -> None:
    scene.drop(TRAININGS, "anna")
    await scene.look(ANNA)


ROOM: dict[str, Callable[[Scene], Any]] = {
    "has completed": finish,
    "has failed": fail,
    "is cancelled": cancel,
    "is suspended by its user": suspend,
    "is deleted": delete,
}


@pytest.mark.parametrize("sentence", ROOM)
async def test_the_next_run_starts_at_once_after_one_that(sentence: str) -> None:
    scene = await Scene().open()
    await ROOM[sentence](scene)
    assert scene.wakes == [BEN]
    await scene.look(BEN)
    assert scene.has_job("ben")


async def test_of_a_raised_quota_those_that_wait_hear_first_and_in_their_order() -> None:
    scene = await Scene().open()
    scene.news.clear()
    scene.hear_of_policy()
    assert scene.news == [], "nothing changed"
    scene.set_quota(2)
    scene.hear_of_policy()
    assert scene.news == [BEN, ANNA]
    await scene.look(BEN)
    assert scene.has_job("ben")
