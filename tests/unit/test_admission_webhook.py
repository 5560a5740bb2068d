"""What the admission webhook lets through: all that it can't judge, and all that is too much."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.builders import a_training
from tests.dictionary_api import DictionaryApi, Object

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_api.policy_ledger import LEDGER_KIND
from lora_operator.admission_webhook import MOST_AT_ONCE, AdmissionWebhook
from lora_operator.cache import Cache
from lora_operator.errors import ApiError, RefusedError, UnavailableError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import LEDGERS, POLICIES, Resource

MONTH = "2026-11"


def an_object(kind: str, name: str, spec: Object) -> Object:
    metadata = {"name": name, "namespace": "studio", "uid": name, "resourceVersion": "1"}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def a_shelf(trainings: int = 5) -> DictionaryApi:
    """Anna has had so many trainings in November."""
    api = DictionaryApi()
    spec = {"month": MONTH, "users": [{"user": "anna", "trainings": trainings}]}
    api.hold(LEDGERS, an_object(LEDGER_KIND, MONTH, spec))
    return api


def a_webhook(client: KubeClient, **policy: Any) -> AdmissionWebhook:  # noqa: ANN401
    cache = Cache()
    cache.put(POLICIES, an_object(POLICY_KIND, ACTING_POLICY, policy))
    return AdmissionWebhook(
        client=client, cache=cache, host="127.0.0.1", port=0, certificate=Path()
    )


def a_request(**meta: Any) -> Object:  # noqa: ANN401
    """A run of anna's as the API server would ask about it, its defaults filled in."""
    body = a_training().with_gpus(1).with_spec("user", "anna").stored()
    body["metadata"] |= meta
    return body


async def test_who_has_had_all_is_refused_and_one_place_is_enough_to_pass() -> None:
    refused = await a_webhook(a_shelf(5), monthlyTrainingsPerUser=5).judge(a_request())
    assert refused is not None
    assert refused.message == (
        "You've reached your monthly limit of 5 LoRAs. Limit resets on the first of each month."
    )
    assert await a_webhook(a_shelf(4), monthlyTrainingsPerUser=5).judge(a_request()) is None


async def test_only_the_month_is_asked_about() -> None:
    webhook = a_webhook(
        a_shelf(), monthlyBudget={"amount": "0"}, maxConcurrentGPUs=0, maxConcurrentTrainings=0
    )
    assert await webhook.judge(a_request()) is None


async def test_the_month_is_that_of_the_creation() -> None:
    webhook = a_webhook(a_shelf(), monthlyTrainingsPerUser=5)
    last, first = "2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z"
    assert await webhook.judge(a_request(creationTimestamp=last)) is not None
    assert await webhook.judge(a_request(creationTimestamp=first)) is None


@pytest.mark.parametrize("error", [UnavailableError("no answer"), RefusedError("no right")])
async def test_a_ledger_that_cannot_be_read_refuses_nobody(error: ApiError) -> None:
    api = a_shelf()
    api.refusals[("GET", f"/{MONTH}")] = error
    assert await a_webhook(api, monthlyTrainingsPerUser=5).judge(a_request()) is None


async def test_a_question_that_makes_no_sense_refuses_nobody() -> None:
    webhook = a_webhook(a_shelf(), monthlyTrainingsPerUser=5)
    senseless: list[Object] = [{}, {"metadata": {}}, {"metadata": None}]
    for body in (*senseless, a_request(creationTimestamp="x")):
        assert await webhook.judge(body) is None


class SilentApi(DictionaryApi):
    """Never answers, and counts who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        self.waiting += 1
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def test_a_flood_of_questions_reads_so_many_ledgers_at_once_and_no_more() -> None:
    api = SilentApi()
    webhook = a_webhook(api, monthlyTrainingsPerUser=5)
    asked = [asyncio.create_task(webhook.judge(a_request())) for _ in range(10 * MOST_AT_ONCE)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert api.waiting == MOST_AT_ONCE
    assert [task.result() for task in asked if task.done()] == [None] * 9 * MOST_AT_ONCE
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert await a_webhook(a_shelf(), monthlyTrainingsPerUser=5).judge(a_request()) is not None
