"""Looks at one run whose cache is behind, against an API server that is a dictionary.

A module of its own because only here a cache and an API server that disagree can be written down
side by side.
"""

import copy
import logging
from typing import Any, cast

import aiohttp
import pytest
from prometheus_client import generate_latest
from tests.builders import NOW, ATraining, a_claim, a_job, a_pod, a_training
from tests.results import a_good_result
from tests.sights import seen

from lora_api.status import LoRATrainingStatus
from lora_operator.actions import Actor
from lora_operator.cache import Cache
from lora_operator.errors import AlreadyExistsError, NotFoundError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import CLAIMS, EVENTS, JOBS, TRAININGS, Resource
from lora_operator.metrics import Metrics
from lora_operator.reconcile import Reconciler
from lora_operator.state.keys import Key
from lora_operator.status import StatusWriter

Object = dict[str, Any]
ANNA = Key("studio", "anna")


class DictionaryApi(KubeClient):
    """What the API server holds, by URL path; remembers what was created."""

    def __init__(self) -> None:
        super().__init__(session=cast("aiohttp.ClientSession", None), server="")
        self.objects: dict[str, Object] = {}
        self.created: list[str] = []

    def hold(self, resource: Resource, body: Object) -> None:
        self.objects[resource.path("studio", body["metadata"]["name"])] = copy.deepcopy(body)

    async def _request(
        self,
        verb: str,
        path: str,
        *,
        body: Object | None = None,
        params: dict[str, str] | None = None,
        **_: object,
    ) -> Object:
        if verb == "GET" and path not in self.objects:
            if params is not None:
                below = [held for key, held in self.objects.items() if key.startswith(f"{path}/")]
                return {"items": [o for o in below if is_chosen(o, params.get("fieldSelector"))]}
            raise NotFoundError("not there", status=404)
        if verb == "POST":
            assert body is not None
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise AlreadyExistsError("there", status=409)
            born = {"uid": f"uid-of-{path}", "creationTimestamp": NOW.isoformat()}
            self.objects[path] = {**body, "metadata": {**body["metadata"], **born}}
            self.created.append(f"{body['kind']} {body['metadata']['name']}")
        if verb == "PATCH":
            assert body is not None
            path = path.removesuffix("/status")
            version = int(self.objects[path]["metadata"]["resourceVersion"])
            self.objects[path] = merged(self.objects[path], {"status": body["status"]})
            self.objects[path]["metadata"]["resourceVersion"] = str(version + 1)
        return copy.deepcopy(self.objects[path])

    @property
    def children(self) -> list[str]:
        return [name for name in self.created if not name.startswith("Event ")]

    def status(self) -> Object:
        status: Object = self.objects[TRAININGS.path("studio", "anna")]["status"]
        return status


def is_chosen(body: Object, selector: str | None) -> bool:
    """Whether an object fits a field selector."""
    for term in selector.split(",") if selector else ():
        path, _, wanted = term.partition("=")
        value: Any = body
        for name in path.split("."):
            value = value[name]
        if value != wanted:
            return False
    return True


def merged(old: Object, patch: Object) -> Object:
    """RFC 7386."""
    new = dict(old)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, dict):
            new[name] = merged(new.get(name) or {}, value)
        else:
            new[name] = value
    return new


def a_reconciler(api: DictionaryApi, cache: Cache, metrics: Metrics | None = None) -> Reconciler:
    return Reconciler(
        client=api,
        cache=cache,
        actor=Actor(client=api, cache=cache, default_image="lora-trainer:test"),
        writer=StatusWriter(client=api, identity="test"),
        metrics=metrics or Metrics(),
        progress_of={},
        now=lambda: NOW,
    )


def live(training: ATraining, **meta: str) -> Object:
    """The run as the API server holds it: newer than what the cache has heard."""
    body = training.stored()
    body["metadata"] |= {"resourceVersion": "200", **meta}
    return body


def completed() -> LoRATrainingStatus | None:
    sight = seen().with_job(a_job().complete()).with_pods(a_pod().ended(0, a_good_result()))
    return sight.decide().status


STALE: dict[str, tuple[Object, list[str], str]] = {
    "has completed, and its Job was deleted": (
        live(a_training().with_status(completed())),
        [],
        "Completed",
    ),
    "has a Job on record, and it was deleted": (
        live(a_training().with_status(seen().with_job().decide().status)),
        [],
        "Failed",
    ),
    "is being deleted": (live(a_training().being_deleted()), [], ""),
    "was made again with a recipe that is none": (
        live(a_training().with_recipe("sd99"), uid="another"),
        [],
        "Failed",
    ),
    "is as new as the cache says": (
        live(a_training()),
        ["PersistentVolumeClaim anna-workspace", "Job anna-train"],
        "Pending",
    ),
}


@pytest.mark.parametrize("sentence", STALE)
async def test_nothing_is_created_by_a_stale_cache_for_a_run_that(sentence: str) -> None:
    stored, created, phase = STALE[sentence]
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, a_training().stored())
    api.hold(TRAININGS, stored)
    await a_reconciler(api, cache).reconcile(ANNA)
    assert api.children == created
    assert api.status().get("phase", "") == phase


async def test_nothing_is_created_for_a_run_that_is_gone() -> None:
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, a_training().stored())
    await a_reconciler(api, cache).reconcile(ANNA)
    assert api.children == []
    assert cache.get(TRAININGS, ANNA) is None


def a_warning(kind: str, name: str, uid: str, message: str) -> Object:
    return {
        "metadata": {"name": f"{name}.{uid}"},
        "type": "Warning",
        "message": message,
        "lastTimestamp": NOW.isoformat(),
        "involvedObject": {"kind": kind, "name": name, "uid": uid},
    }


def the_claim() -> Object:
    body = a_claim("Pending")
    body["metadata"] |= {"resourceVersion": "1", "ownerReferences": owners()}
    return body


def owners() -> list[Object]:
    found: list[Object] = a_job().stored()["metadata"]["ownerReferences"]
    return found


@pytest.mark.parametrize(
    ("kind", "resource", "child"),
    [
        ("Job", JOBS, a_job().stored()),
        ("PersistentVolumeClaim", CLAIMS, the_claim()),
    ],
)
async def test_a_wait_is_explained_by_its_own_warnings_not_by_a_predecessors(
    kind: str, resource: Resource, child: Object
) -> None:
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, a_training().stored())
    api.hold(TRAININGS, a_training().stored())
    cache.put(JOBS, a_job().stored())
    cache.put(resource, child)
    name, uid = child["metadata"]["name"], child["metadata"]["uid"]
    api.hold(EVENTS, a_warning(kind, name, "an earlier one", "the class slow is gone"))
    await a_reconciler(api, cache).reconcile(ANNA)
    assert "the class slow is gone" not in api.status()["message"]
    api.hold(EVENTS, a_warning(kind, name, uid, "the class fast is gone"))
    await a_reconciler(api, cache).reconcile(ANNA)
    assert "the class fast is gone" in api.status()["message"]


async def test_a_status_that_cannot_be_read_is_told_once_per_version(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api, cache, metrics = DictionaryApi(), Cache(), Metrics()
    reconciler = a_reconciler(api, cache, metrics)
    for version in ("200", "200", "201"):
        body = live(a_training(), resourceVersion=version)
        body["status"] = {"phase": "Hibernating"}
        cache.put(TRAININGS, body)
        api.hold(TRAININGS, body)
        with caplog.at_level(logging.WARNING, logger="lora_operator"):
            await reconciler.reconcile(ANNA)
    assert api.status() == {"phase": "Hibernating"}
    assert [record.getMessage() for record in caplog.records] == ["status not readable"] * 2
    told = caplog.records[0].__dict__["lora_fields"]
    assert told["run"] == "studio/anna"
    assert "phase" in told["fault"]
    figures = generate_latest(metrics.registry).decode()
    assert "lora_operator_unreadable_statuses_total 2.0" in figures
