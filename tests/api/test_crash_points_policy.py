"""The operator killed after each write of a life under a policy: ledger, queue and Job together.

A module of its own because such a life has a second run in it, which takes the first one's place.
What a point is, and what must be the same in the end, says theatre.py.
"""

from pathlib import Path

import pytest
from tests.api.kept_connection import KeptApiServer
from tests.api.operator_process import Object, eventually
from tests.api.real_stage import RealStage, make_namespace
from tests.api.reaper import Point
from tests.api.theatre import Script, Theatre
from tests.builders import a_training
from tests.results import a_good_result

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_cluster.light import LightCluster
from lora_operator.kube.resources import JOBS, LEDGERS, POLICIES, TRAININGS

pytestmark = pytest.mark.api
POLICY: Object = {
    "maxConcurrentGPUs": 1,
    "monthlyTrainingsPerUser": 1,
    "prices": {"perGpuHour": "3600"},
    "queue": {"preemption": "LowerPriority"},
    "priorityClasses": [{"name": "high", "value": 9}],
}


@pytest.fixture
def theatre(controlled_cluster: LightCluster, tmp_path: Path) -> Theatre:
    api = KeptApiServer(controlled_cluster.kubeconfig)

    def make_ruled_namespace() -> str:
        name = make_namespace(api)
        meta = {"name": ACTING_POLICY, "namespace": name}
        body = {"apiVersion": API_VERSION, "kind": POLICY_KIND, "metadata": meta, "spec": POLICY}
        api.create(POLICIES, body)
        return name

    return Theatre(controlled_cluster, tmp_path, api, make_ruled_namespace)


def is_its_own(point: Point) -> bool:
    """Whether a write belongs to this life.

    What a ledger tells again or after all is over comes by the clock, as does its policy; events
    follow from statuses, as in the other lives.
    """
    label, earlier = point
    if "trainingledgers" in label:
        return ":" in label and not earlier
    return not label.startswith(("POST events", "PATCH trainingpolicies"))


def makes_room_and_goes_on(stage: RealStage) -> None:
    first = stage.running_pod()
    stage.is_in("Starting", "Running")
    urgent = a_training().named("urgent").in_namespace(stage.namespace)
    urgent = urgent.with_spec("user", "ben").with_spec("priorityClassName", "high")
    stage.api.create(TRAININGS, urgent.manifest())
    stage.is_leaving(first)
    eventually(lambda: stage.job()["spec"]["suspend"], "the Job is suspended")
    stage.end(first, 143)
    stage.is_in("Queued", "Queued")
    eventually(lambda: "urgent-train" in stage.has(JOBS), "the urgent run has the GPU")
    stage.api.delete(TRAININGS, stage.namespace, "urgent")
    second = stage.running_pod(but=first.name)
    stage.is_in("Starting", "Running")
    stage.end(second, 0, a_good_result())
    stage.is_in("Completed")
    eventually(lambda: stage.status["cost"]["final"], "the cost is final")
    eventually(lambda: stage.has(JOBS) == ["anna-train"], "what the urgent run had is collected")
    (ledger,) = stage.api.list(LEDGERS, stage.namespace)
    assert places_of(ledger["spec"]) == {"anna": 1, "ben": 1}


def places_of(ledger: Object) -> dict[str, int]:
    """Runs that count, by user."""
    places = {user["user"]: int(user["trainings"]) for user in ledger["users"]}
    for run in ledger["runs"]:
        if run["state"] != "Returned":
            places[run["user"]] = places.get(run["user"], 0) + 1
    return places


def test_killed_after_any_write_under_a_policy_it_ends_the_same_and_counts_once(
    theatre: Theatre,
) -> None:
    training = a_training().with_spec("user", "anna")
    theatre.each_point_ends_the_same(
        Script(training=training, live=makes_room_and_goes_on, is_its_own=is_its_own)
    )
