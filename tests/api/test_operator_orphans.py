"""The orphan sweep on a real API server: what belongs to no run goes, and nothing else does.

A module of its own because the sweep comes every ten minutes; here it is called.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.api.operator_process import ApiServer, Object
from tests.builders import a_training

from lora_operator.kube.client import KubeClient
from lora_operator.kube.credentials import connect
from lora_operator.kube.resources import CLAIMS, JOBS, TRAININGS
from lora_operator.labels import labels_of
from lora_operator.metrics import Metrics
from lora_operator.orphans import OrphanSweeper

pytestmark = pytest.mark.api
GONE = labels_of("gone", "00000000-0000-0000-0000-000000000000")


@pytest_asyncio.fixture
async def client(api: ApiServer) -> AsyncIterator[KubeClient]:
    del api  # says where the API server is
    connection = connect()
    async with connection.session() as session:
        yield KubeClient(session=session, server=connection.server)


def a_job(namespace: str, name: str, labels: Object, owners: list[Object] | None = None) -> Object:
    pod = {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
    meta = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owners or []}
    return {"metadata": meta, "spec": {"template": {"spec": pod}}}


def a_claim(namespace: str, name: str, labels: Object) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec}


async def test_what_belongs_to_no_run_goes_at_the_second_look(
    api: ApiServer, namespace: str, client: KubeClient
) -> None:
    run = api.create(TRAININGS, a_training().in_namespace(namespace).manifest())
    alive = labels_of("anna", run["metadata"]["uid"])
    workflow = {
        **{"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "w"},
        "controller": True,
    }
    for job in (
        a_job(namespace, "orphan", GONE),
        a_job(namespace, "of-a-living-run", alive),
        a_job(namespace, "of-somebody-else", GONE, [workflow]),
        a_job(namespace, "a-strangers", {"app": "web"}),
    ):
        api.create(JOBS, job)
    for claim in (
        a_claim(namespace, "orphan", GONE),
        a_claim(namespace, "of-a-living-run", alive),
        a_claim(namespace, "a-strangers", {"app": "web"}),
    ):
        api.create(CLAIMS, claim)

    def left() -> list[str]:
        return sorted(
            f"{kind.plural}/{body['metadata']['name']}"
            for kind in (JOBS, CLAIMS)
            for body in api.list(kind, namespace)
            # What protects a claim in use is a controller's to take off, and none runs here.
            if "deletionTimestamp" not in body["metadata"]
        )

    before = left()
    sweeper = OrphanSweeper(client=client, metrics=Metrics(), namespaces=(namespace,))
    await sweeper.sweep()
    assert left() == before
    await sweeper.sweep()
    assert set(before) - set(left()) == {"jobs/orphan", "persistentvolumeclaims/orphan"}
