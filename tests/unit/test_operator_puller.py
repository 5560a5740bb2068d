"""Which pods are asked for their progress: a request from the operator is a thing to be stolen."""

from typing import Any, cast

import aiohttp
import pytest
from tests.builders import a_job, a_pod, a_training

from lora_operator.cache import Cache
from lora_operator.kube.resources import JOBS, PODS, TRAININGS
from lora_operator.metrics import Metrics
from lora_operator.puller import ProgressPuller
from lora_operator.settings import ProgressRoute

Object = dict[str, Any]
ADDRESS = "10.0.0.7"


def asked(training: Object | None, job: Object | None, pod: Object) -> list[str]:
    """Addresses that the puller would ask."""
    cache = Cache()
    for resource, body in ((TRAININGS, training), (JOBS, job), (PODS, pod)):
        if body is not None:
            cache.put(resource, body)
    puller = ProgressPuller(
        cache=cache,
        pods=cast("aiohttp.ClientSession", None),
        api=cast("aiohttp.ClientSession", None),
        server="",
        in_cluster=True,
        route=ProgressRoute.DIRECT,
        metrics=Metrics(),
        on_change=lambda _: None,
    )
    return [target.ip for target in puller._targets()]


def running() -> Object:
    pod = a_pod().running().stored()
    pod["status"]["podIP"] = ADDRESS
    return pod


def owned_by(body: Object, uid: str) -> Object:
    body["metadata"]["ownerReferences"] = [{"uid": uid, "controller": True}] if uid else []
    return body


CASES: dict[str, tuple[Object | None, Object | None, Object, list[str]]] = {
    "a pod of a run's own Job is asked": (
        a_training().stored(),
        a_job().stored(),
        running(),
        [ADDRESS],
    ),
    "a pod that only carries our labels is not": (
        a_training().stored(),
        a_job().stored(),
        owned_by(running(), "a stranger's"),
        [],
    ),
    "a Job that only carries the right name lends its pods no trust": (
        a_training().stored(),
        owned_by(a_job().stored(), ""),
        running(),
        [],
    ),
    "neither does an earlier run's Job": (
        a_training().stored(),
        owned_by(a_job().stored(), "an earlier run's"),
        running(),
        [],
    ),
    "without a run nobody is asked": (None, a_job().stored(), running(), []),
    "without a Job nobody is asked": (a_training().stored(), None, running(), []),
}


@pytest.mark.parametrize("sentence", CASES)
def test_progress_requests_go_only_where_they_belong(sentence: str) -> None:
    training, job, pod, addresses = CASES[sentence]
    assert asked(training, job, pod) == addresses
