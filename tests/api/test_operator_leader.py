"""Two replicas, one Lease: who leads, who follows, and that who lost it changes nothing more."""

import json
from datetime import datetime

import pytest
from tests.api.operator_process import Object, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_pod, a_training

from lora_cluster.light import LightCluster
from lora_operator.kube.resources import EVENTS, JOBS, LEASES

pytestmark = pytest.mark.api


@pytest.fixture
def pair(operators: tuple[Operator, Operator]) -> tuple[Operator, Operator]:
    """The leader and its standby."""
    one, two = operators
    one.start()
    eventually(lambda: one.leads, "the first leads")
    two.start()
    return one, two


def requests_of(cluster: LightCluster, namespace: str, identity: str) -> list[Object]:
    """What a replica asked to have written in a namespace, by the audit log, oldest first."""
    entries = map(json.loads, cluster.audit_log.read_text().splitlines())
    return [
        entry
        for entry in entries
        if entry.get("userAgent") == f"lora-operator/{identity}"
        and entry["verb"] not in {"get", "list", "watch"}
        and entry.get("objectRef", {}).get("namespace") == namespace
    ]


def succeeded(entry: Object) -> bool:
    code: int = entry["responseStatus"]["code"]
    return code < 300


def time_of(entry: Object) -> datetime:
    return datetime.fromisoformat(entry["requestReceivedTimestamp"])


def led_since(cluster: LightCluster, namespace: str, identity: str) -> datetime:
    """When a replica first wrote itself into the Lease."""
    entries = requests_of(cluster, namespace, identity)
    return min(
        time_of(entry)
        for entry in entries
        if entry["objectRef"]["resource"] == LEASES.plural and succeeded(entry)
    )


def begins_anew(operator: Operator) -> None:
    """Wait until a replica that lost its Lease stands by, in the process that it was."""
    process = operator.process
    assert process is not None
    eventually(
        lambda: [line["event"] for line in operator.events()].count("started") == 2,
        "it begins anew",
    )
    eventually(lambda: operator.ready and not operator.leads, "it stands by")
    assert process.poll() is None
    lost = [line for line in operator.events() if line["event"] == "beginning anew"]
    assert "LeadershipLost" in [line["reason"] for line in lost]


def many(stage: Stage, names: list[str]) -> list[Stage]:
    stages = [
        Stage(stage.api, a_training().in_namespace(stage.namespace).named(name)) for name in names
    ]
    for each in stages:
        each.apply()
    return stages


def test_of_two_replicas_one_leads(
    stage: Stage, pair: tuple[Operator, Operator], light_cluster: LightCluster
) -> None:
    one, two = pair
    stage.apply()
    stage.is_in("Pending", "PodPending")
    assert (one.leads, two.leads) == (True, False)
    assert requests_of(light_cluster, stage.namespace, "one")
    assert requests_of(light_cluster, stage.namespace, "two") == []


def test_a_killed_leader_is_followed(stage: Stage, pair: tuple[Operator, Operator]) -> None:
    one, two = pair
    one.kill()
    eventually(lambda: two.leads, "the second leads")
    stage.apply()
    stage.job()


def test_a_leader_that_stops_gives_the_lease_back(
    stage: Stage, pair: tuple[Operator, Operator]
) -> None:
    one, two = pair
    assert one.stop() == 0
    lease = stage.api.get(LEASES, stage.namespace, "lora-operator")
    assert lease is not None
    assert lease["spec"].get("holderIdentity") != "one"
    eventually(lambda: two.leads, "the second leads")
    assert "lease released" in [line["event"] for line in one.events()]


def test_a_leader_that_lost_its_lease_does_not_even_try_to_write(
    stage: Stage, pair: tuple[Operator, Operator], light_cluster: LightCluster
) -> None:
    one, two = pair
    one.pause()
    eventually(lambda: two.leads, "the second leads")
    # All of these are news to the first when it wakes up, and ask for work.
    for each in many(stage, [f"run-{number}" for number in range(20)]):
        each.is_in("Pending", "PodPending")
    one.resume()
    begins_anew(one)
    since = led_since(light_cluster, stage.namespace, "two")
    late = [e for e in requests_of(light_cluster, stage.namespace, "one") if time_of(e) > since]
    assert [e for e in late if e["objectRef"]["resource"] != LEASES.plural] == []
    assert not any(map(succeeded, late))


def test_a_leader_stopped_in_the_middle_of_its_work_changes_nothing_when_it_wakes_up(
    stage: Stage, pair: tuple[Operator, Operator], light_cluster: LightCluster
) -> None:
    one, two = pair
    stages = many(stage, [f"run-{number}" for number in range(30)])
    one.pause()
    eventually(lambda: two.leads, "the second leads")
    for each in stages:
        each.is_in("Pending", "PodPending")
    one.resume()
    begins_anew(one)
    since = led_since(light_cluster, stage.namespace, "two")
    late = [e for e in requests_of(light_cluster, stage.namespace, "one") if time_of(e) > since]
    # What had passed the guard before the stop may still be sent; the API server refuses it. An
    # event has no version that it could be refused by, and does no harm.
    assert [e for e in late if succeeded(e) and e["objectRef"]["resource"] != EVENTS.plural] == []
    assert len(stage.api.list(JOBS, stage.namespace)) == len(stages)


def test_a_leader_that_lost_its_lease_can_lead_and_be_stopped_again(
    stage: Stage, pair: tuple[Operator, Operator]
) -> None:
    one, two = pair
    one.pause()
    eventually(lambda: two.leads, "the second leads")
    one.resume()
    begins_anew(one)
    # What it learns now it learns as a standby.
    stage.apply()
    stage.is_in("Pending", "PodPending")
    two.kill()
    eventually(lambda: one.leads, "the first leads again")
    stage.add_pod(a_pod().placed().running())
    stage.is_in("Starting", "Running")
    assert one.stop() == 0


def test_a_leader_writes_nothing_after_giving_the_lease_back(
    stage: Stage, pair: tuple[Operator, Operator], light_cluster: LightCluster
) -> None:
    one, _ = pair
    assert one.stop() == 0
    eventually(
        lambda: requests_of(light_cluster, stage.namespace, "two"), "the second took the Lease"
    )
    last = requests_of(light_cluster, stage.namespace, "one")[-1]
    assert (last["objectRef"]["resource"], last["verb"]) == (LEASES.plural, "update")
    assert led_since(light_cluster, stage.namespace, "two") > time_of(last)
