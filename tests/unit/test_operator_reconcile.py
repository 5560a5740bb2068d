"""Looks at one run whose cache is behind, against an API server that is a dictionary.

A module of its own because only here a cache and an API server that disagree can be written down
side by side.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.builders import NOW, ATraining, a_claim, a_job, a_pod, a_training
from tests.dictionary_api import DictionaryApi
from tests.results import a_good_result
from tests.sights import seen
from tests.unit.rows_given_up import NO_ENTRY, given_up_with

from lora_api.status import LoRATrainingStatus
from lora_operator.actions import Actor
from lora_operator.builders.ownership import metadata
from lora_operator.cache import Cache
from lora_operator.errors import ApiError, RefusedError, UnavailableError
from lora_operator.kube.resources import CLAIMS, EVENTS, JOBS, PODS, TRAININGS, Resource
from lora_operator.metrics import Metrics
from lora_operator.reconcile import Reconciler
from lora_operator.state.keys import Key
from lora_operator.status import StatusWriter

Object = dict[str, Any]
ANNA = Key("studio", "anna")


def a_reconciler(
    api: DictionaryApi,
    cache: Cache,
    metrics: Metrics | None = None,
    *,
    now: datetime = NOW,
    leads_since: datetime | None = None,
    is_pressed: bool = False,
) -> Reconciler:
    return Reconciler(
        client=api,
        cache=cache,
        actor=Actor(client=api, cache=cache, default_image="lora-trainer:test"),
        writer=StatusWriter(client=api, identity="test"),
        metrics=metrics or Metrics(),
        progress_of={},
        now=lambda: now,
        leads_since=lambda: leads_since,
        is_pressed=lambda: is_pressed,
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


RUN_PATH = f"GET {TRAININGS.path('studio', 'anna')}"


@pytest.mark.parametrize(("seconds", "asks"), [(-60, True), (0, True), (4, True), (5, False)])
async def test_a_run_is_not_asked_for_where_nobody_else_can_have_touched_it(
    seconds: int, asks: bool
) -> None:
    api, cache = DictionaryApi(), Cache()
    born = a_training().stored()
    cache.put(TRAININGS, born)
    api.hold(TRAININGS, born)
    since = datetime.fromisoformat(born["metadata"]["creationTimestamp"])
    since -= timedelta(seconds=seconds)
    await a_reconciler(api, cache, leads_since=since).reconcile(ANNA)
    assert api.children == ["PersistentVolumeClaim anna-workspace", "Job anna-train"]
    assert (RUN_PATH in api.asked) is asks


async def test_the_first_word_waits_until_other_runs_have_their_jobs() -> None:
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, a_training().stored())
    api.hold(TRAININGS, a_training().stored())
    again_after = await a_reconciler(api, cache, is_pressed=True).reconcile(ANNA)
    assert again_after == 0
    assert api.children == ["PersistentVolumeClaim anna-workspace", "Job anna-train"]
    assert not api.status()
    await a_reconciler(api, cache, is_pressed=True).reconcile(ANNA)
    assert api.status()["phase"] == "Pending"


async def test_a_job_that_is_gone_before_it_was_told_of_is_not_made_again() -> None:
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, a_training().stored())
    api.hold(TRAININGS, a_training().stored())
    reconciler = a_reconciler(api, cache, is_pressed=True)
    await reconciler.reconcile(ANNA)
    del api.objects[JOBS.path("studio", "anna-train")]
    cache.drop(JOBS, Key("studio", "anna-train"))
    await reconciler.reconcile(ANNA)
    assert api.status()["jobName"] == "anna-train"
    await reconciler.reconcile(ANNA)
    assert api.status()["failure"]["reason"] == "JobVanished"
    assert api.children == ["PersistentVolumeClaim anna-workspace", "Job anna-train"]


async def test_a_pod_that_is_gone_decides_no_end() -> None:
    """Its deletion was never told of, and it can't be asked what it did."""
    api, cache = DictionaryApi(), Cache()
    told = seen().with_job().with_pods(a_pod().running()).decide().status
    training = a_training().with_status(told).stored()
    for resource, body in (
        (TRAININGS, training),
        (CLAIMS, a_claim()),
        (JOBS, a_job().failed("PodFailurePolicy").stored()),
    ):
        cache.put(resource, body)
        api.hold(resource, body)
    cache.put(PODS, a_pod().ended(137).stored())
    await a_reconciler(api, cache).reconcile(ANNA)
    assert cache.all(PODS) == []
    assert "its pods are gone" in api.status()["message"]


async def test_a_refusal_is_told_however_many_wait() -> None:
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, a_training().stored())
    api.hold(TRAININGS, a_training().stored())
    api.refusals["POST", "/jobs"] = RefusedError("exceeded quota", status=403)
    await a_reconciler(api, cache, is_pressed=True).reconcile(ANNA)
    assert "exceeded quota" in api.status()["message"]


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


SPENT = timedelta(seconds=3601)
QUOTA = "exceeded quota: gpus"
REFUSED: dict[str, tuple[str, str]] = {
    "the Job": ("POST", "/jobs"),
    "the workspace": ("POST", "/persistentvolumeclaims"),
}


@pytest.mark.parametrize("sentence", REFUSED)
async def test_a_run_ends_once_too_long_the_api_server_refuses(sentence: str) -> None:
    api, cache = DictionaryApi(), Cache()
    api.hold(TRAININGS, a_training().stored())
    cache.put(TRAININGS, a_training().stored())
    api.refusals[REFUSED[sentence]] = RefusedError(QUOTA, status=403)
    await a_reconciler(api, cache).reconcile(ANNA)
    assert (api.status()["phase"], QUOTA in api.status()["message"]) == ("Pending", True)
    await a_reconciler(api, cache, now=NOW + SPENT).reconcile(ANNA)
    assert api.status()["phase"] == "Failed"
    assert api.status()["failure"]["reason"] == "CreationRefused"
    assert QUOTA in api.status()["message"]


async def test_a_run_whose_pod_is_refused_ends_with_that_reason() -> None:
    api, cache = DictionaryApi(), Cache()
    claim, job = the_claim(), a_job().stored()
    for resource, body in ((TRAININGS, a_training().stored()), (CLAIMS, claim), (JOBS, job)):
        api.hold(resource, body)
        cache.put(resource, body)
    warning = a_warning("Job", job["metadata"]["name"], job["metadata"]["uid"], QUOTA)
    api.hold(EVENTS, warning)
    await a_reconciler(api, cache).reconcile(ANNA)
    assert QUOTA in api.status()["message"]
    await a_reconciler(api, cache, now=NOW + SPENT).reconcile(ANNA)
    assert api.status()["phase"] == "Failed"
    assert QUOTA in api.status()["message"]


async def test_a_refusal_is_forgotten_once_what_was_refused_is_there() -> None:
    api, cache = DictionaryApi(), Cache()
    api.hold(TRAININGS, a_training().stored())
    cache.put(TRAININGS, a_training().stored())
    api.refusals[("POST", "/jobs")] = RefusedError(QUOTA, status=403)
    await a_reconciler(api, cache).reconcile(ANNA)
    # Another replica, or a person with the manifest, made it between our request and our look.
    made = a_job().stored()
    made["metadata"]["creationTimestamp"] = (NOW + SPENT).isoformat()
    api.on_refusal = lambda: api.hold(JOBS, made)
    await a_reconciler(api, cache, now=NOW + SPENT).reconcile(ANNA)
    assert api.status()["phase"] == "Pending"


WAITING = a_job().stored()
IN_LINE = a_job().suspended().queued_in("gpus").stored()


@pytest.mark.parametrize(
    ("path", "error", "job", "phase"),
    [
        ("/events", RefusedError("may not list events", status=403), WAITING, "Pending"),
        ("/events", UnavailableError("no answer"), WAITING, "Pending"),
        ("/workloads", UnavailableError("a server error", status=500), IN_LINE, "Queued"),
    ],
)
async def test_an_explanation_that_cannot_be_read_holds_nothing_up(
    path: str, error: ApiError, job: Object, phase: str
) -> None:
    api, cache = DictionaryApi(), Cache()
    for resource, body in ((TRAININGS, a_training().stored()), (CLAIMS, the_claim()), (JOBS, job)):
        api.hold(resource, body)
        cache.put(resource, body)
    api.refusals[("GET", path)] = error
    await a_reconciler(api, cache).reconcile(ANNA)
    assert api.status()["phase"] == phase


@pytest.mark.parametrize("is_there", [True, False])
async def test_no_run_is_deleted_with_a_workspace_that_the_cache_does_not_know(
    is_there: bool,
) -> None:
    """With the run would go the only copy of what was trained."""
    sight = given_up_with(65, NO_ENTRY)
    training = sight.training.with_spec("retention.ttlSeconds", 0)
    training = training.with_status(sight.decide().status)
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, training.stored())
    api.hold(TRAININGS, training.stored())
    if is_there:
        claim = a_claim()
        api.hold(
            CLAIMS,
            {**claim, "metadata": metadata(training.run(), "anna-workspace") | claim["metadata"]},
        )
    await a_reconciler(api, cache).reconcile(ANNA)
    assert any(asked.startswith("DELETE") for asked in api.asked) is not is_there
