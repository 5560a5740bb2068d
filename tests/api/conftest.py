"""Fixtures of the API tests: servers with and without controllers, operators, runs on stage.

A module that needs something else of the same name has a fixture of its own, which wins.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.guarded import Guarded
from tests.api.kept_connection import KeptApiServer
from tests.api.operator_process import ApiServer, Operator
from tests.api.real_stage import NewStage, make_namespace
from tests.api.stage import Stage
from tests.api.theatre import Theatre
from tests.builders import a_training
from tests.conftest import start_with_crds

from lora_cluster.light import LightCluster


@pytest.fixture(scope="session")
def guarded() -> Iterator[Guarded]:
    """An API server of its own: the rules would get in the way of tests that play the operator.

    The controllers aggregate roles, and remove what lies in a deleted namespace.
    """
    with start_with_crds(controller_manager=True) as cluster:
        yield Guarded(cluster)


@pytest.fixture(scope="module")
def api(light_cluster: LightCluster) -> ApiServer:
    """The API server without controllers: tests play them."""
    return ApiServer(light_cluster.kubeconfig)


@pytest.fixture
def namespace(api: ApiServer) -> str:
    """A namespace of the test's own."""
    return api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def stage(api: ApiServer, namespace: str) -> Stage:
    """A run that is not applied yet."""
    return Stage(api, a_training().in_namespace(namespace))


@pytest.fixture
def operators(api: ApiServer, namespace: str) -> Iterator[tuple[Operator, Operator]]:
    """Two replicas that share a Lease, neither of them started."""
    arguments = (f"--lease-namespace={namespace}", f"--namespace={namespace}")
    one, two = (Operator(api.kubeconfig, *arguments, identity=name) for name in ("one", "two"))
    yield one, two
    for operator in (one, two):
        operator.kill()


@pytest.fixture(scope="session")
def controlled_cluster() -> Iterator[LightCluster]:
    """An API server with its controllers and one node without a kubelet, which tests play."""
    with start_with_crds(controller_manager=True) as cluster:
        # Pods on a node that does not exist would be collected.
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
        ApiServer(cluster.kubeconfig).request("POST", "/api/v1/nodes", node)
        yield cluster


@pytest.fixture(scope="module")
def controlled_api(controlled_cluster: LightCluster) -> ApiServer:
    """That API server."""
    return ApiServer(controlled_cluster.kubeconfig)


@pytest.fixture(scope="module")
def controlled_operator(controlled_api: ApiServer) -> Iterator[Operator]:
    """An operator that serves all of its namespaces."""
    process = Operator(controlled_api.kubeconfig, "--no-leader-elect").start()
    yield process
    process.kill()


@pytest.fixture
def new_stage(controlled_api: ApiServer, controlled_operator: Operator) -> NewStage:
    """Makes runs that this operator and the real controllers work on."""
    del controlled_operator  # has to run
    return NewStage(controlled_api)


@pytest.fixture
def real_theatre(controlled_cluster: LightCluster, tmp_path: Path) -> Theatre:
    """Where lives are played with the real controllers, and the operator is killed."""
    api = KeptApiServer(controlled_cluster.kubeconfig)
    return Theatre(controlled_cluster, tmp_path, api, lambda: make_namespace(api))
