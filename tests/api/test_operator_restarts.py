"""Kills, restarts and gaps in the watch: the run must not notice."""

import json

import pytest
from tests.api.operator_process import Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_job, a_pod
from tests.results import a_good_result

from lora_cluster.light import LightCluster
from lora_operator.kube.resources import JOBS, TRAININGS

pytestmark = pytest.mark.api


def creations(cluster: LightCluster, namespace: str, plural: str) -> int:
    """How many objects of a kind were ever created in a namespace, by the audit log."""
    count = 0
    for line in cluster.audit_log.read_text().splitlines():
        entry = json.loads(line)
        target = entry.get("objectRef", {})
        if (
            entry["verb"] == "create"
            and target.get("resource") == plural
            and target.get("namespace") == namespace
            and entry.get("responseStatus", {}).get("code") == 201
        ):
            count += 1
    return count


def test_a_killed_operator_goes_on_from_what_is_stored(
    stage: Stage, operators: tuple[Operator, Operator], light_cluster: LightCluster
) -> None:
    operator, _ = operators
    operator.start()
    stage.apply()
    pod = a_pod().placed()
    stage.add_pod(pod.running())
    stage.is_in("Starting", "Running")
    operator.kill()
    # All of this happens while nobody watches.
    stage.set_pod(pod.ended(0, a_good_result()))
    stage.set_job(a_job().complete())
    operator.start()
    status = stage.is_in("Completed")
    assert status["attempts"] == 1
    assert creations(light_cluster, stage.namespace, "jobs") == 1
    assert creations(light_cluster, stage.namespace, "persistentvolumeclaims") == 1


def test_a_run_applied_while_no_operator_lives_is_started_by_the_next(
    stage: Stage, operators: tuple[Operator, Operator]
) -> None:
    stage.apply()
    operators[0].start()
    stage.job()
    stage.is_in("Pending", "PodPending")


def test_a_run_deleted_during_a_gap_in_the_watch_is_evicted(
    stage: Stage,
    operators: tuple[Operator, Operator],
    light_cluster: LightCluster,
) -> None:
    # Alone it needs no Lease, so that the pause costs it nothing else.
    operator = operators[0]
    operator.arguments += ("--no-leader-elect",)
    operator.start()
    stage.apply()
    stage.job()
    stage.is_in("Pending", "PodPending")
    assert operator.metric("lora_operator_cached_objects") == 3
    operator.pause()
    # The first restart cuts the watch, the second makes the API server forget what happened
    # between: the operator has to list anew, and what vanished meanwhile is simply not listed.
    restart_apiserver(light_cluster)
    stage.api.delete(TRAININGS, stage.namespace, "anna")
    stage.api.delete(JOBS, stage.namespace, "anna-train")
    restart_apiserver(light_cluster)
    operator.resume()
    eventually(
        lambda: operator.metric("lora_operator_ghosts_evicted_total") == 2,
        "both ghosts are evicted",
    )
    assert operator.metric("lora_operator_cached_objects") == 1, "the claim still exists"


def restart_apiserver(cluster: LightCluster) -> None:
    cluster.stop_apiserver()
    cluster.start_apiserver()


def writes(cluster: LightCluster, namespace: str) -> list[tuple[str, str]]:
    """What the operator wrote in a namespace: verbs and kinds, oldest first."""
    return [
        (entry["verb"], entry["objectRef"]["resource"])
        for entry in map(json.loads, cluster.audit_log.read_text().splitlines())
        if entry["verb"] not in {"get", "list", "watch"}
        and entry.get("objectRef", {}).get("namespace") == namespace
        and entry.get("userAgent", "").startswith("lora-operator")
    ]


def await_renewals(cluster: LightCluster, namespace: str, count: int) -> None:
    """Wait until the Lease was renewed so many more times."""

    def renewals() -> int:
        return writes(cluster, namespace).count(("update", "leases"))

    wanted = renewals() + count
    eventually(lambda: renewals() >= wanted, "the Lease is renewed")


def test_an_idle_operator_writes_nothing_but_its_lease(
    stage: Stage, operators: tuple[Operator, Operator], light_cluster: LightCluster
) -> None:
    operator, _ = operators
    stage.apply()
    operator.start()
    stage.add_pod(a_pod().placed().running())
    stage.is_in("Starting", "Running")
    # The last writes of the way here reach the audit log after the status can be read; two
    # renewals lie seconds apart, and by the second all is quiet.
    await_renewals(light_cluster, stage.namespace, 2)
    begun = len(writes(light_cluster, stage.namespace))
    await_renewals(light_cluster, stage.namespace, 3)
    written = writes(light_cluster, stage.namespace)[begun:]
    assert set(written) == {("update", "leases")}
