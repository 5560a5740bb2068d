"""An operator that starts where much exists already looks at all of it and writes nothing."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_training

from lora_cluster.light import LightCluster
from lora_operator.kube.resources import TRAININGS

pytestmark = pytest.mark.api
RUNS = 60


def written_by(cluster: LightCluster, identity: str) -> set[tuple[str, str]]:
    """Verbs and kinds of a replica's writes, by the audit log."""
    entries = map(json.loads, cluster.audit_log.read_text().splitlines())
    return {
        (entry["verb"], entry["objectRef"]["resource"])
        for entry in entries
        if entry.get("userAgent") == f"lora-operator/{identity}"
        and entry["verb"] not in {"get", "list", "watch"}
    }


def test_a_start_among_many_runs_is_no_burst_of_writes(light_cluster: LightCluster) -> None:
    api = ApiServer(light_cluster.kubeconfig)
    namespace = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    arguments = (f"--namespace={namespace}", f"--lease-namespace={namespace}")
    first, second = (
        Operator(api.kubeconfig, *arguments, identity=f"{name}-{namespace}")
        for name in ("first", "second")
    )
    stages = [
        Stage(api, a_training().in_namespace(namespace).named(f"run-{n}")) for n in range(RUNS)
    ]
    try:
        first.start()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Stage.apply, stages))
        eventually(
            lambda: all(
                run.get("status", {}).get("phase") for run in api.list(TRAININGS, namespace)
            ),
            "every run has a status",
        )
        for stage in stages:
            stage.is_in("Pending", "PodPending")
        first.stop()
        second.start()
        eventually(
            lambda: second.metric("lora_operator_reconcile_seconds_count") >= RUNS,
            "every run was looked at",
        )
        assert second.metric("lora_operator_cached_objects") == 3 * RUNS
        assert written_by(light_cluster, f"first-{namespace}") > {("create", "jobs")}
        assert written_by(light_cluster, f"second-{namespace}") == {("update", "leases")}
    finally:
        first.kill()
        second.kill()
