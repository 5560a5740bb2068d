"""The chart over its versions on a real API server: upgrade, rollback, uninstall; runs stay.

A module of its own because it needs an API server that serves none of our kinds yet: Helm installs
CRDs once, and from then on they are the administrator's.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.builders import a_training
from tests.conftest import ROOT

from lora_api.status import ConditionType
from lora_cluster.light import LightCluster
from lora_cluster.light import light_cluster as start_light_cluster
from lora_operator.kube.resources import JOBS, TRAININGS

pytestmark = pytest.mark.api
CHART = ROOT / "charts/lora-operator"
RUNS_CRD = "loratraining.dev_loratrainings.yaml"
NAMESPACE = "lora-system"
# What the older version did not know yet.
LATER_FIELD = "trained"
OLDER_CONDITIONS = ("Admitted", "WorkspaceReady", "Running", "ArtifactStored", "Succeeded")


class Release:
    """The chart in a cluster of its own."""

    def __init__(self, cluster: LightCluster, older: Path) -> None:
        self.api = ApiServer(cluster.kubeconfig)
        self._cluster = cluster
        self.older = older

    def helm(self, *arguments: str) -> None:
        # Nothing runs the Deployment here; its pods are another test's.
        self._run("helm", *arguments, f"--namespace={NAMESPACE}")

    def apply_crds(self) -> None:
        self._run("kubectl", "apply", "--server-side", "--force-conflicts", "-f", CHART / "crds")

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [str(self._cluster.binaries / program), *map(str, arguments)]
        command.append(f"--kubeconfig={self._cluster.kubeconfig}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def run(self) -> dict[str, Any]:
        body = self.api.get(TRAININGS, "studio", "anna")
        assert body is not None
        return body

    def keeps_later_field(self) -> bool:
        """Whether the API server knows what only the newer CRD has."""
        told = {LATER_FIELD: {"at": "2026-11-22T12:00:00Z"}}
        self.api.patch_status(TRAININGS, "studio", "anna", told)
        return LATER_FIELD in self.run()["status"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A cluster without our kinds, and the chart as an older version of it was."""
    older = tmp_path_factory.mktemp("older") / "lora-operator"
    shutil.copytree(CHART, older)
    path = older / "crds" / RUNS_CRD
    crd = yaml.safe_load(path.read_text(encoding="utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]["properties"][LATER_FIELD]
    path.write_text(yaml.safe_dump(crd), encoding="utf-8")
    with start_light_cluster() as cluster:
        yield Release(cluster, older)


def an_older_status() -> dict[str, Any]:
    """As an operator wrote it that knew fewer conditions and fields."""
    return {
        "phase": "Pending",
        "message": "The training Job is being created.",
        "observedGeneration": 1,
        "conditions": [
            {
                "type": kind,
                "status": "Unknown",
                "reason": "NotStarted",
                "message": "",
                "lastTransitionTime": "2026-11-22T12:00:00Z",
            }
            for kind in OLDER_CONDITIONS
        ],
    }


def test_runs_stay_through_upgrade_rollback_and_uninstall(release: Release) -> None:
    api = release.api
    release.helm("install", "lora-operator", str(release.older), "--create-namespace")
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "studio"}})
    api.create(TRAININGS, a_training().manifest())
    spec = release.run()["spec"]
    api.patch_status(TRAININGS, "studio", "anna", an_older_status())

    release.helm("upgrade", "lora-operator", str(CHART))
    assert not release.keeps_later_field(), "Helm leaves CRDs as they are"
    release.apply_crds()
    eventually(release.keeps_later_field, "the newer CRD is in force")
    assert release.run()["spec"] == spec

    wanted = set(map(str, ConditionType))
    operator = Operator(api.kubeconfig, "--no-leader-elect", "--namespace=studio").start()
    try:
        eventually(lambda: api.get(JOBS, "studio", "anna-train"), "the run goes on")
        eventually(
            lambda: {c["type"] for c in release.run()["status"]["conditions"]} == wanted,
            "its status has what the older one lacked",
        )
    finally:
        operator.kill()

    release.helm("rollback", "lora-operator", "1")
    assert release.keeps_later_field(), "a rollback takes no CRD back"
    release.helm("uninstall", "lora-operator")
    assert release.run()["spec"] == spec
    assert api.get(JOBS, "studio", "anna-train") is not None


def rendered(cluster: LightCluster, *settings: str) -> dict[str, dict[str, Any]]:
    command = [str(cluster.binaries / "helm"), "template", "lora-operator", str(CHART)]
    done = subprocess.run(
        [*command, "--kube-version=1.35.4", *settings], capture_output=True, text=True, check=True
    )
    documents = [body for body in yaml.safe_load_all(done.stdout) if body]
    return {body["kind"]: body for body in documents}


def test_replicas_are_spread_and_not_drained_together(light_cluster: LightCluster) -> None:
    one, two = rendered(light_cluster), rendered(light_cluster, "--set=replicas=2")
    assert "PodDisruptionBudget" not in one
    assert "affinity" not in one["Deployment"]["spec"]["template"]["spec"]
    labels = two["Deployment"]["spec"]["selector"]
    assert two["PodDisruptionBudget"]["spec"] == {"maxUnavailable": 1, "selector": labels}
    affinity = two["Deployment"]["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    (wish,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert wish["podAffinityTerm"]["labelSelector"] == labels


def test_an_own_affinity_wins(light_cluster: LightCluster) -> None:
    own = rendered(light_cluster, "--set=replicas=2", '--set-json=affinity={"nodeAffinity":{}}')
    assert own["Deployment"]["spec"]["template"]["spec"]["affinity"] == {"nodeAffinity": {}}
