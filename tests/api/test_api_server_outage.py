"""The API server's process is gone for a minute while runs are in flight, and comes back.

A module of its own because it kills the real server under the real controllers, which a proxy that
refuses (`test_adversity`) does not: connections break, and no answer of any kind is given.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime

import pytest
from tests.api import audit
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.real_stage import RealStage, make_namespace
from tests.builders import a_training
from tests.results import a_good_result

from lora_cluster.light import LightCluster
from lora_operator.kube.resources import CLAIMS, EVENTS, JOBS, LEASES, PODS
from lora_operator.labels import job_name, workspace_name

pytestmark = pytest.mark.api
OUTAGE_SECONDS = 60.0
QUIET_SECONDS = 6.0
NAMES = ("trains", "ends", "done", "waits")
STOPS = "stops"
FRESH = [f"fresh-{number}" for number in range(8)]
STATUS = "loratrainings/status"
# Queued or created, its pod without a node; then one that says why, or what stage it is in.
WRITES_OF_A_BEGINNING = 3


@pytest.fixture(scope="module")
def api(controlled_api: ApiServer) -> ApiServer:
    """The API server with its controllers; nobody but the two replicas serves the namespace."""
    return controlled_api


@pytest.fixture
def namespace(api: ApiServer) -> str:
    return make_namespace(api)


def a_run(api: ApiServer, namespace: str, name: str, workspace: str = "Ephemeral") -> RealStage:
    # Of a claim that nobody binds a waiting run would tell in its time: a write that is wanted.
    training = a_training().with_spec("workspace.type", workspace)
    stage = RealStage(api, training.in_namespace(namespace).named(name))
    stage.apply()
    return stage


def one_leads(operators: tuple[Operator, Operator]) -> bool:
    return [each.ready and each.leads for each in operators].count(True) == 1


def written(cluster: LightCluster, namespace: str, since: datetime) -> list[audit.Request]:
    """What the replicas had done but for the Lease."""
    requests = audit.writes(cluster, namespace, since=since)
    return [each for each in requests if each.was_done and each.kind != LEASES.plural]


def settle(cluster: LightCluster, namespace: str) -> None:
    """Wait until nobody writes any more."""

    def is_quiet() -> bool:
        before = len(written(cluster, namespace, audit.LONG_AGO))
        time.sleep(QUIET_SECONDS)
        return len(written(cluster, namespace, audit.LONG_AGO)) == before

    eventually(is_quiet, "all is quiet")


def test_a_minute_without_an_api_server_loses_doubles_and_repeats_nothing(
    controlled_cluster: LightCluster,
    api: ApiServer,
    namespace: str,
    operators: tuple[Operator, Operator],
) -> None:
    processes = [each.start().process for each in operators]
    eventually(lambda: one_leads(operators), "one leads")
    trains, ends, done, waits = (a_run(api, namespace, name) for name in NAMES)
    stops = a_run(api, namespace, STOPS, "PersistentVolumeClaim")
    pods = {
        stage.name: stage.running_pod(job=job_name(stage.name))
        for stage in (trains, ends, stops, done)
    }
    for stage in (trains, ends, stops):
        stage.is_in("Starting", "Running")
    done.end(pods["done"], 0, a_good_result())
    done.is_in("Completed")
    waits.is_in("Pending", "PodPending")
    settle(controlled_cluster, namespace)
    untouched = {stage: stage.version for stage in (trains, done, waits)}

    # In the middle of this work the server dies.
    stops.patch({"cancel": {}})
    fresh = [a_run(api, namespace, name) for name in FRESH]
    controlled_cluster.stop_apiserver()
    gone = time.monotonic()
    while time.monotonic() - gone < OUTAGE_SECONDS:
        assert [process.poll() for process in processes if process] == [None, None]
        time.sleep(1)
    back = datetime.now(UTC)
    controlled_cluster.start_apiserver()
    # Kubelets were not idle.
    ends.end(pods["ends"], 0, a_good_result())

    ends.is_in("Completed")
    stops.is_leaving(pods[STOPS])
    stops.end(pods[STOPS], 143)
    stops.is_in("Cancelled")
    for stage in fresh:
        stage.is_in("Pending", "PodPending")
    eventually(lambda: one_leads(operators), "one leads")
    assert [process.poll() for process in processes if process] == [None, None]
    settle(controlled_cluster, namespace)

    everything = written(controlled_cluster, namespace, audit.LONG_AGO)
    created = Counter((each.kind, each.name) for each in everything if each.verb == "create")
    assert {key: times for key, times in created.items() if key[0] != EVENTS.plural} == {
        **{(JOBS.plural, job_name(name)): 1 for name in (*NAMES, STOPS, *FRESH)},
        (CLAIMS.plural, workspace_name(STOPS)): 1,
    }
    owners = Counter(
        pod["metadata"]["ownerReferences"][0]["name"] for pod in api.list(PODS, namespace)
    )
    assert max(owners.values()) == 1, "no run has a second pod"
    assert {stage.name: stage.version for stage in untouched} == {
        stage.name: version for stage, version in untouched.items()
    }
    afterwards = written(controlled_cluster, namespace, back)
    told = Counter(each.name for each in afterwards if each.kind == STATUS)
    assert told.keys() <= {"ends", STOPS, *FRESH}
    assert all(told[name] <= WRITES_OF_A_BEGINNING for name in FRESH), told
