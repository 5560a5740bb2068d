"""What the API server answers to an eviction, and what the operator makes of each answer.

A module of its own because it needs no operator process: the acts are done right here.
"""

import asyncio

import pytest
from tests.api.operator_process import ApiServer, Object
from tests.builders import NOW, RUN_UID, a_training

from lora_operator.actions import Actor
from lora_operator.cache import Cache
from lora_operator.kube.client import KubeClient
from lora_operator.kube.credentials import connect
from lora_operator.kube.resources import PODS, Resource
from lora_operator.state.decision import Action
from lora_operator.state.reading import read_pod
from lora_operator.state.views import Job, Observed

pytestmark = pytest.mark.api

BUDGETS = Resource(group="policy", version="v1", plural="poddisruptionbudgets")


def a_running_pod(api: ApiServer, namespace: str) -> Object:
    pod = {
        "metadata": {"name": "anna-train-x1", "namespace": namespace, "labels": {"app": "train"}},
        "spec": {
            "nodeName": "node-1",
            "containers": [{"name": "trainer", "image": "x"}],
        },
    }
    api.create(PODS, pod)
    ready = [{"type": "Ready", "status": "True"}]
    status = {"phase": "Running", "conditions": ready}
    return api.patch_status(PODS, namespace, "anna-train-x1", status)


def protect(api: ApiServer, namespace: str, name: str) -> None:
    body = {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "train"}}},
    }
    api.create(BUDGETS, body)


async def evict(namespace: str, pod: Object) -> None:
    connection = connect()
    async with connection.session() as session:
        client = KubeClient(session=session, server=connection.server)
        actor = Actor(client=client, cache=Cache(), default_image="x")
        run = a_training().in_namespace(namespace).run()
        job = Job(name="anna-train", uid=RUN_UID, created_at=NOW)
        await actor.act(Observed(run=run, job=job, pods=(read_pod(pod),)), (Action.EVICT_POD,))


@pytest.mark.parametrize("budgets", [0, 1, 2])
def test_a_pod_that_makes_no_progress_goes_whatever_protects_it(
    api: ApiServer, namespace: str, budgets: int
) -> None:
    pod = a_running_pod(api, namespace)
    for number in range(budgets):
        protect(api, namespace, f"budget-{number}")
    asyncio.run(evict(namespace, pod))
    body = api.get(PODS, namespace, "anna-train-x1")
    assert body is None or "deletionTimestamp" in body["metadata"]
