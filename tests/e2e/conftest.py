"""What the end-to-end tests share: the installed cluster, a namespace, and a way to wait.

The cluster, the images and the chart come from `make install`; a missing one is an error here,
never a skip, because a skipped end-to-end test looks like a passed one.
"""

import copy
import io
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from minio import Minio

from lora_api import GROUP, VERSION
from lora_api.training import PLURAL
from lora_demo import storage as store
from lora_demo.environment import Environment, read_environment, run

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples/quickstart"
DATASET = "s3://datasets/e2e/"
Training = dict[str, Any]


class Cluster:
    """The running cluster, as a platform's own code would use it."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        api = config.new_client_from_config(environment.variables["KUBECONFIG"])
        self.objects = client.CustomObjectsApi(api)
        self.core = client.CoreV1Api(api)
        self.batch = client.BatchV1Api(api)
        self.storage: Minio = store.connect(environment)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return run(self.environment, "kubectl", *arguments, stdin=stdin)

    def apply(self, manifest: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def make_namespace(self, name: str) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        )

    def make_secret(self, namespace: str, name: str, **changes: str) -> None:
        data = {
            "AWS_ACCESS_KEY_ID": self.environment.access_key,
            "AWS_SECRET_ACCESS_KEY": self.environment.secret_key,
            "AWS_ENDPOINT_URL": self.environment.s3_cluster_endpoint,
            "AWS_REGION": "us-east-1",
        }
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace},
                "stringData": data | changes,
            }
        )

    def create(self, training: Training) -> None:
        namespace = training["metadata"]["namespace"]
        self.objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, training)

    def read(self, namespace: str, name: str) -> Training:
        found: Training = self.objects.get_namespaced_custom_object(
            GROUP, VERSION, namespace, PLURAL, name
        )
        return found

    def wait(
        self,
        namespace: str,
        name: str,
        until: Callable[[dict[str, Any]], bool],
        *,
        timeout_seconds: float = 300,
    ) -> dict[str, Any]:
        """Polls the run's status until it satisfies `until`, and returns it."""
        deadline = time.monotonic() + timeout_seconds
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            status = self.read(namespace, name).get("status", {})
            if until(status):
                return status
            time.sleep(0.5)
        raise AssertionError(f"{namespace}/{name} did not get there; last status: {status}")

    def upload(self, uri: str, name: str, data: bytes) -> None:
        bucket, prefix = store.split_uri(uri)
        self.storage.put_object(
            bucket_name=bucket, object_name=prefix + name, data=io.BytesIO(data), length=len(data)
        )


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    running = Cluster(read_environment())
    store.make_buckets(running.storage)
    store.upload_folder(
        running.storage, ROOT / "examples/small-base/model", "s3://bases/small-sd15/"
    )
    store.upload_folder(running.storage, QUICKSTART / "dataset", DATASET)
    return running


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace under Pod Security "restricted", with credentials; gone afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    cluster.make_namespace(name)
    cluster.make_secret(name, "s3")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait", "--timeout=120s")


@pytest.fixture
def a_run(namespace: str) -> Callable[..., Training]:
    """Builds the quickstart's run, made short, with any field changed by its dotted path."""

    def _build(name: str, changes: dict[str, Any] | None = None) -> Training:
        training: Training = copy.deepcopy(
            yaml.safe_load((QUICKSTART / "loratraining.yaml").read_text(encoding="utf-8"))
        )
        training["metadata"] = {"name": name, "namespace": namespace}
        defaults = {
            "dataset.uri": DATASET,
            "output.uri": f"s3://models/{namespace}/{name}/",
            "optimization.steps": 4,
            "optimization.batchSize": 1,
            "optimization.warmupSteps": 0,
            "validation.samplingSteps": 2,
            "limits.retries": 0,
        }
        for path, value in (defaults | (changes or {})).items():
            *parents, leaf = path.split(".")
            node = training["spec"]
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return training

    return _build


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type, or an empty one."""
    found = (entry for entry in status.get("conditions", []) if entry["type"] == kind)
    return next(found, {})


def has_ended(status: dict[str, Any]) -> bool:
    """Whether the run is Completed or Failed."""
    return status.get("phase") in {"Completed", "Failed"}
