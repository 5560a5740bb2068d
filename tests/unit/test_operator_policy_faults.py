"""What is told and what goes on where policy or ledger can't be understood."""

from datetime import timedelta
from typing import Any

import pytest
from tests.builders import a_pod
from tests.queue_scene import ANNA, BEN, Scene

from lora_api import API_VERSION
from lora_operator.kube.resources import LEDGERS, POLICIES, TRAININGS
from lora_operator.policy.faults import PolicyFaultError

Object = dict[str, Any]
FOREIGN = {
    "apiVersion": API_VERSION,
    "kind": "TrainingLedger",
    "metadata": {"name": "2026-11", "namespace": "studio", "resourceVersion": "7"},
    "spec": {"month": "2026-11", "runs": [{"uid": "x", "state": "Enchanted"}]},
}
USD: Object = {"maxConcurrentGPUs": 1, "currency": "USD", "prices": {"perGpuHour": "3.6"}}


def status_of(scene: Scene, name: str) -> Object:
    status: Object = scene.api.objects[TRAININGS.path("studio", name)]["status"]
    return status


def reasons(status: Object) -> dict[str, str]:
    return {condition["type"]: condition["reason"] for condition in status["conditions"]}


def acting(scene: Scene) -> Object:
    (condition,) = scene.api.objects[POLICIES.path("studio", "default")]["status"]["conditions"]
    assert isinstance(condition, dict)
    return condition


async def test_who_waits_for_a_ledger_that_can_not_be_read_says_so_and_goes_on_once_it_can() -> (
    None
):
    scene = Scene()
    scene.set_quota(1)
    scene.api.hold(LEDGERS, FOREIGN)
    scene.create("anna")
    await scene.look(ANNA)
    status = status_of(scene, "anna")
    assert (status["phase"], reasons(status)["Succeeded"]) == ("Queued", "PolicyUnreadable")
    assert "TrainingLedger studio/2026-11 can't be read, so nothing is started" in status["message"]
    assert not scene.has_job("anna")
    await scene.flush()
    assert acting(scene)["reason"] == "PolicyUnreadable"
    del scene.api.objects[LEDGERS.path("studio", "2026-11")]
    await scene.look(ANNA)
    assert scene.has_job("anna")
    await scene.flush()
    assert acting(scene)["status"] == "True"


async def test_who_waits_for_a_policy_that_can_not_be_read_says_so_and_may_give_up() -> None:
    scene = await Scene().open()
    scene.set_policy(maxConcurrentGPUs="many")
    scene.create("cleo")
    cleo = BEN._replace(name="cleo")
    await scene.look(cleo)
    status = status_of(scene, "cleo")
    assert (status["phase"], reasons(status)["Running"]) == ("Queued", "PolicyUnreadable")
    assert "maxConcurrentGPUs" in status["message"]
    scene.change(TRAININGS, "cleo", spec={**scene.spec_of("cleo"), "cancel": {}})
    with pytest.raises(PolicyFaultError):
        await scene.look(cleo)  # what is kept of it may be the policy's to say
    assert status_of(scene, "cleo")["phase"] == "Cancelled"


async def test_a_run_under_way_waits_for_the_policy_that_has_its_defaults() -> None:
    scene = await Scene().open()
    before = status_of(scene, "anna")
    scene.set_policy(maxConcurrentGPUs="many")
    with pytest.raises(PolicyFaultError):
        await scene.look(ANNA)
    assert status_of(scene, "anna") == before


async def spent(scene: Scene, **policy: Any) -> None:  # noqa: ANN401
    """Anna's run has cost a cent, and then the policy changes."""
    scene.set_policy(**USD)
    scene.hear_of_policy()
    scene.add_pod(a_pod().running())
    await scene.look(ANNA)
    scene.now += timedelta(seconds=10)
    await scene.look(ANNA)
    await scene.flush()
    scene.set_policy(**{**USD, **policy})
    scene.hear_of_policy()


async def test_a_changed_currency_holds_who_waits_and_stops_nobody() -> None:
    scene = await Scene().open()
    await spent(scene, currency="EUR", maxConcurrentGPUs=2)
    before = scene.ledger()
    assert before["currency"] == "USD"
    scene.now += timedelta(seconds=60)
    for key in (ANNA, BEN):
        await scene.look(key)
    await scene.flush()
    waiting = status_of(scene, "ben")
    assert (waiting["phase"], reasons(waiting)["Suspended"]) == ("Queued", "CurrencyChanged")
    assert "Set spec.currency back to USD" in waiting["message"]
    assert not scene.has_job("ben")
    assert status_of(scene, "anna")["phase"] == "Starting", "it goes on"
    assert scene.ledger() == before, "nothing was counted wrongly"
    assert (acting(scene)["status"], acting(scene)["reason"]) == ("False", "CurrencyChanged")


async def test_a_currency_that_is_set_back_counts_on_and_lets_who_waits_go() -> None:
    scene = await Scene().open()
    await spent(scene, currency="EUR", maxConcurrentGPUs=2)
    await scene.look(BEN)
    seconds = scene.gpu_seconds()
    scene.now += timedelta(seconds=60)
    scene.news.clear()
    scene.set_policy(**USD, maxConcurrentTrainings=5)
    scene.hear_of_policy()
    assert BEN in scene.news
    for key in (ANNA, BEN):
        await scene.look(key)
    await scene.flush()
    assert scene.gpu_seconds() == seconds + 60
    assert status_of(scene, "anna")["cost"]["currency"] == "USD"
    assert reasons(status_of(scene, "ben"))["Running"] == "Queued"
    assert acting(scene)["status"] == "True"
