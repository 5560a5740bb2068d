"""An operator that starts where much exists already looks at all of it and writes nothing."""

import base64
import json
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_training
from tests.conftest import start_with_crds

from lora_cluster.light import LightCluster
from lora_operator.kube.resources import TRAININGS

pytestmark = pytest.mark.api
RUNS = 60
ENDED = 1000
IN_ONE_WRITE = 100
STORED = "/registry/loratraining.dev/loratrainings"


@pytest.fixture(scope="module")
def light_cluster() -> Iterator[LightCluster]:
    """One of its own: a thousand runs would be in the way of all other tests."""
    with start_with_crds() as cluster:
        yield cluster


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


class Etcd:
    """What the API server stores in, spoken to behind its back.

    Through the API server a thousand runs cost a minute: it judges each by all its rules.
    """

    def __init__(self, cluster: LightCluster) -> None:
        self._url = f"{cluster.etcd}/v3/kv"

    def get(self, key: str) -> Object:
        found = self._post("range", {"key": _coded(key)})["kvs"]
        stored: Object = json.loads(base64.b64decode(found[0]["value"]))
        return stored

    def put(self, objects: dict[str, Object]) -> None:
        pairs = [
            {"requestPut": {"key": _coded(key), "value": _coded(json.dumps(body))}}
            for key, body in objects.items()
        ]
        for begin in range(0, len(pairs), IN_ONE_WRITE):
            self._post("txn", {"success": pairs[begin : begin + IN_ONE_WRITE]})

    def _post(self, what: str, body: Object) -> Object:
        url, data = f"{self._url}/{what}", json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:  # noqa: S310
            document: Object = json.load(answer)
            return document


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def copies(run: Object, count: int) -> Iterator[Object]:
    """Runs to which the same has happened as to this one, each under its own name."""
    text, uid = json.dumps(run), run["metadata"]["uid"]
    for number in range(count):
        name = f"{run['metadata']['name']}{number}"
        copy: Object = json.loads(
            text.replace(uid, str(uuid.uuid4())).replace('"anna-', f'"{name}-')
        )
        copy["metadata"]["name"] = name
        yield copy


def test_a_start_among_a_thousand_runs_that_ended_writes_nothing(
    light_cluster: LightCluster, stage: Stage, operators: tuple[Operator, Operator]
) -> None:
    first, second = operators
    first.identity, second.identity = f"first-{stage.namespace}", f"second-{stage.namespace}"
    first.start()
    stage.apply()
    stage.live()
    first.stop()
    etcd, where = Etcd(light_cluster), f"{STORED}/{stage.namespace}"
    runs = copies(etcd.get(f"{where}/{stage.name}"), ENDED)
    etcd.put({f"{where}/{run['metadata']['name']}": run for run in runs})
    second.start()
    eventually(
        lambda: second.metric("lora_operator_reconcile_seconds_count") > ENDED,
        "every run was looked at",
    )
    assert written_by(light_cluster, second.identity) == {("update", "leases")}
