"""Runs find GPUs that are large enough: by the real scheduler, among nodes that only say they are.

A server of its own, because its nodes would take the pods of other tests.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.real_stage import MERGE, RealStage, make_namespace
from tests.builders import a_training
from tests.conftest import start_with_crds

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_cluster.light import LightCluster
from lora_operator.kube.resources import NODES, PODS, POLICIES

pytestmark = pytest.mark.api
# Nobody speaks for these nodes, so sooner or later they are called not ready.
SILENT_NODES = [
    {"key": f"node.kubernetes.io/{taint}"} for taint in ("not-ready", "unreachable", "unknown")
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LightCluster]:
    """Controllers and the scheduler."""
    with start_with_crds(controller_manager=True) as cluster:
        cluster.start_scheduler()
        yield cluster


@pytest.fixture(scope="module")
def api(cluster: LightCluster) -> ApiServer:
    return ApiServer(cluster.kubeconfig)


@pytest.fixture(scope="module", autouse=True)
def operator(api: ApiServer) -> Iterator[Operator]:
    process = Operator(api.kubeconfig, "--no-leader-elect").start()
    yield process
    process.kill()


class Nodes:
    """Nodes with eight GPUs each, which run nothing."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._names: list[str] = []

    def add(
        self, *, resource: str = "nvidia.com/gpu", memory: int | None, product: str = ""
    ) -> str:
        """Add a node whose labels tell of its GPUs, or, without a memory, say nothing."""
        labels = {f"{resource}.memory": str(memory), f"{resource}.product": product}
        name = f"node-{uuid.uuid4().hex[:6]}"
        meta = {"name": name, "labels": labels if memory is not None else {}}
        self._api.request("POST", NODES.path(), {"metadata": meta})
        self._names.append(name)
        room = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110"}
        status = {"capacity": {**room, resource: "8"}, "allocatable": {**room, resource: "8"}}
        path = NODES.path(None, name, "status")
        self._api.request("PATCH", path, {"status": status}, MERGE)
        return name

    def remove_all(self) -> None:
        for name in self._names:
            self._api.request("DELETE", NODES.path(None, name))


@pytest.fixture
def nodes(api: ApiServer) -> Iterator[Nodes]:
    """The cluster's nodes, gone after the test."""
    made = Nodes(api)
    yield made
    made.remove_all()


def start(api: ApiServer, recipe: str, *, spec: Object | None = None, **policy: Any) -> RealStage:  # noqa: ANN401
    """A run in a namespace of its own, with a policy."""
    namespace = make_namespace(api)
    body = {
        "apiVersion": API_VERSION,
        "kind": POLICY_KIND,
        "metadata": {"name": ACTING_POLICY, "namespace": namespace},
        "spec": {"defaults": {"tolerations": SILENT_NODES}, **policy},
    }
    api.create(POLICIES, body)
    training = a_training().in_namespace(namespace).with_recipe(recipe).with_spec("user", "anna")
    training = training.with_spec("workspace", {"type": "Ephemeral"})
    for path, value in (spec or {}).items():
        training = training.with_spec(path, value)
    stage = RealStage(api, training)
    stage.apply()
    return stage


def place_of(stage: RealStage) -> str:
    """The node on which the scheduler put the run."""

    def node() -> str | None:
        pods = stage.api.list(PODS, stage.namespace)
        found: str | None = pods[0]["spec"].get("nodeName") if pods else None
        return found

    name: str = eventually(node, lambda: f"the pod has a node: {stage.status}")
    return name


def test_a_run_goes_where_the_gpu_is_large_enough(api: ApiServer, nodes: Nodes) -> None:
    nodes.add(memory=4096)
    large = nodes.add(memory=15360)
    assert place_of(start(api, "sdxl")) == large


def test_a_run_that_can_be_squeezed_goes_where_it_need_not_be(api: ApiServer, nodes: Nodes) -> None:
    nodes.add(memory=6144)
    ample = nodes.add(memory=24576)
    assert place_of(start(api, "sdxl")) == ample


def test_of_nodes_that_say_nothing_nothing_is_demanded(api: ApiServer, nodes: Nodes) -> None:
    untold = nodes.add(memory=None)
    assert place_of(start(api, "flux")) == untold


def test_a_run_for_which_no_gpu_is_large_enough_says_so_and_starts_once_there_is_one(
    api: ApiServer, nodes: Nodes
) -> None:
    nodes.add(memory=4096, product="Small-4GB")
    stage = start(api, "sdxl")
    message = stage.is_in("Pending", "NoFittingGPU")["message"]
    assert "MiB of memory that sdxl at 1024 pixels needs" in message
    assert "Small-4GB (4096 MiB) on 1 node" in message
    assert "The scheduler says: 0/1 nodes are available" in message
    large = nodes.add(memory=24576, product="Large-24GB")
    assert place_of(stage) == large
    stage.is_in("Starting", "PodStarting")


def test_a_run_that_knows_better_than_the_estimate_says_so(api: ApiServer, nodes: Nodes) -> None:
    small = nodes.add(memory=4096)
    assert place_of(start(api, "wan", spec={"resources.gpuMemory": "4Gi"})) == small


def test_a_large_gpu_that_is_taken_is_waited_for_as_for_any_room(
    api: ApiServer, nodes: Nodes
) -> None:
    nodes.add(memory=81559)
    message = start(api, "sdxl", spec={"resources.gpus": 9}).is_in("Pending", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in message["message"]


def test_parts_of_gpus_are_found_by_their_own_name_and_labels(api: ApiServer, nodes: Nodes) -> None:
    nodes.add(memory=81559)
    part = nodes.add(resource="nvidia.com/mig-1g.10gb", memory=9728, product="H100-MIG-1g.10gb")
    gpu = {"resourceName": "nvidia.com/mig-1g.10gb"}
    assert place_of(start(api, "sd15", gpu=gpu)) == part
    message = start(api, "flux", gpu=gpu).is_in("Pending", "NoFittingGPU")["message"]
    assert "They are: H100-MIG-1g.10gb (9728 MiB) on 1 node." in message


def test_another_vendors_gpus_are_found_by_the_label_that_the_policy_names(
    api: ApiServer, nodes: Nodes
) -> None:
    small = nodes.add(resource="amd.com/gpu", memory=4096)
    gpu = {"resourceName": "amd.com/gpu"}
    api.request(
        "PATCH", NODES.path(None, small), {"metadata": {"labels": {"team/mib": "4096"}}}, MERGE
    )
    start(api, "sdxl", gpu={**gpu, "memoryLabel": "team/mib"}).is_in("Pending", "NoFittingGPU")
    assert place_of(start(api, "sd15", gpu={**gpu, "memoryLabel": "team/mib"})) == small
