"""The rights in the chart are enough for a run's whole life, and nothing is asked for beyond."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_job, a_pod, a_training
from tests.results import a_good_result

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_cluster.light import LightCluster
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, POLICIES, TRAININGS

pytestmark = pytest.mark.api
ROOT = Path(__file__).parents[2]
RELEASE_NAMESPACE = "lora-system"
ACCOUNT = "lora-operator"


@pytest.fixture
def restricted_kubeconfig(light_cluster: LightCluster, tmp_path: Path) -> Path:
    """A kubeconfig of the operator's ServiceAccount, bound to the chart's roles."""

    def program(*arguments: str | Path, stdin: str | None = None) -> str:
        done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, check=True)
        return done.stdout

    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        config = f"--kubeconfig={light_cluster.kubeconfig}"
        return program(light_cluster.binaries / "kubectl", config, *arguments, stdin=stdin)

    rendered = program(
        *(light_cluster.binaries / "helm", "template", "lora-operator"),
        *(ROOT / "charts/lora-operator", f"--namespace={RELEASE_NAMESPACE}"),
        "--kube-version=1.35.4",
    )
    wanted = [
        document
        for document in yaml.safe_load_all(rendered)
        if document and ("rbac" in document["apiVersion"] or document["kind"] == "ServiceAccount")
    ]
    kubectl("create", "namespace", RELEASE_NAMESPACE)
    kubectl(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
    )
    token = kubectl("create", "token", ACCOUNT, f"--namespace={RELEASE_NAMESPACE}").strip()
    config: dict[str, Any] = yaml.safe_load(light_cluster.kubeconfig.read_text())
    config["users"] = [{"name": "operator", "user": {"token": token}}]
    config["contexts"][0]["context"] |= {"user": "operator", "namespace": RELEASE_NAMESPACE}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def operator(restricted_kubeconfig: Path) -> Iterator[Operator]:
    process = Operator(restricted_kubeconfig, "--progress-via=direct")
    yield process
    process.kill()


def end_early(api: ApiServer, namespace: str, operator: Operator) -> None:
    """A run that waits for a node, is suspended, cancelled, cleaned up and deleted."""
    training = a_training().named("ben").in_namespace(namespace)
    stage = Stage(api, training.with_spec("retention", {"jobSeconds": 0, "ttlSeconds": 2}))
    stage.apply()
    pod = a_pod().named("ben-train-x")
    stage.add_pod(pod.unschedulable("0/1 nodes are available."))
    stage.is_in("Pending", "Unschedulable")
    eventually(
        lambda: 'resource="nodes",verb="list"' in operator.read("/metrics"), "nodes were read"
    )
    stage.bind_pod(pod)
    stage.set_pod(pod.running())
    stage.is_in("Starting", "Running")
    path = TRAININGS.path(namespace, "ben")
    merge = "application/merge-patch+json"
    api.request("PATCH", path, {"spec": {"suspend": True}}, merge)
    eventually(lambda: stage.job()["spec"].get("suspend"), "the Job is suspended")
    api.request("PATCH", path, {"spec": {"cancel": {}}}, merge)
    eventually(lambda: "deletionTimestamp" in stage.job()["metadata"], "the Job is to go")
    # Nobody collects garbage here, nor ends pods.
    api.delete(PODS, namespace, pod.name)
    release: dict[str, object] = {"metadata": {"finalizers": []}}
    api.request("PATCH", JOBS.path(namespace, "ben-train"), release, merge)
    claim = CLAIMS.path(namespace, "ben-workspace")
    eventually(lambda: "deletionTimestamp" in api.request("GET", claim)["metadata"], "so is it")
    eventually(lambda: api.get(TRAININGS, namespace, "ben") is None, "the run is gone")


def test_the_charts_rights_are_enough(light_cluster: LightCluster, operator: Operator) -> None:
    api = ApiServer(light_cluster.kubeconfig)
    operator.start()
    eventually(lambda: operator.leads, "the operator leads")
    namespace = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    # With prices by node label it also keeps a ledger, and asks for the labels of the node.
    prices = {"byNodeLabel": [{"key": "pool", "value": "gpu", "perGpuHour": "1"}]}
    policy = {
        "apiVersion": API_VERSION,
        "kind": POLICY_KIND,
        "metadata": {"name": ACTING_POLICY, "namespace": namespace},
        "spec": {"prices": prices},
    }
    api.create(POLICIES, policy)
    stage = Stage(api, a_training().in_namespace(namespace))
    stage.apply()
    # Long without a pod, it asks for the Job's and the claim's events.
    stage.is_in("Pending", "PodPending")
    eventually(
        lambda: 'resource="events",verb="list"' in operator.read("/metrics"), "events were read"
    )
    stage.bind_claim()
    pod = a_pod().placed()
    stage.add_pod(pod.running())
    stage.is_in("Starting", "Running")
    stage.set_pod(pod.ended(0, a_good_result()))
    stage.set_job(a_job().complete())
    stage.is_in("Completed")
    eventually(lambda: "Completed" in stage.told(), "the end is told")
    end_early(api, namespace, operator)
    assert operator.stop() == 0
    # Only the API server knows what was refused: count there, not in the operator.
    refused = [
        (entry["verb"], entry.get("objectRef", {}).get("resource"))
        for entry in map(json.loads, light_cluster.audit_log.read_text().splitlines())
        if entry["user"]["username"] == f"system:serviceaccount:{RELEASE_NAMESPACE}:{ACCOUNT}"
        and entry.get("responseStatus", {}).get("code") == 403
        # What other tests left behind may be refused for its own reasons, a quota's for instance.
        and entry.get("objectRef", {}).get("namespace") in {None, namespace, RELEASE_NAMESPACE}
    ]
    assert refused == []
