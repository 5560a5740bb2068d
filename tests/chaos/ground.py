"""The ground that chaos happens on: the real local cluster, our operator, a scripted trainer.

A module of its own because what is killed must not matter to who prepares and looks.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException
from minio import Minio
from minio.error import ServerError

from lora_api import GROUP, VERSION
from lora_api.training import PLURAL
from lora_cluster.image_build import build, build_script
from lora_demo import storage as store
from lora_demo.environment import DemoError, cluster, read_environment, run
from lora_demo.install import CHART, OPERATOR_NAMESPACE, RELEASE

STANDIN = Path(__file__).parent / "standin.py"
EVIDENCE = Path("build/chaos")
REPLICAS = 2
PATIENCE_SECONDS = 120.0
FINAL_ANSWERS = {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}
Object = dict[str, Any]
T = TypeVar("T")
UNREACHABLE = (ApiException, urllib3.exceptions.HTTPError, OSError, ServerError)


class Ground:
    """A namespace of the running cluster, and hands to reach it."""

    def __init__(self) -> None:
        """Start the cluster, load the images, install the chart with two replicas."""
        cluster("up")
        images = [build("operator"), build_script("lora-standin", STANDIN)]
        for reference in images:
            cluster("load-image", reference)
        self.environment = read_environment()
        api = config.new_client_from_config(self.environment.variables["KUBECONFIG"])
        self.objects = client.CustomObjectsApi(api)
        self.core = client.CoreV1Api(api)
        self.batch = client.BatchV1Api(api)
        self.leases = client.CoordinationV1Api(api)
        self.storage: Minio = store.connect(self.environment)
        self._install(*images)
        store.make_buckets(self.storage)
        self.namespace = f"chaos-{uuid.uuid4().hex[:6]}"
        self._make_namespace()
        self.audit_log = Path(self.environment.variables["LORA_CLUSTER_AUDIT_LOG"])

    def _install(self, operator: str, standin: str) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
        repository, _, tag = operator.rpartition(":")
        run(self.environment, "helm", "upgrade", "--install", RELEASE, str(CHART),
            "--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--skip-crds",
            "--set", f"image.repository={repository}", "--set", f"image.tag={tag}",
            "--set", f"trainerImage={standin}", "--set", f"replicas={REPLICAS}",
            "--wait", "--timeout", "120s")  # fmt: skip

    def _make_namespace(self) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        meta = {"name": self.namespace, "labels": labels}
        secret = {
            "AWS_ACCESS_KEY_ID": self.environment.access_key,
            "AWS_SECRET_ACCESS_KEY": self.environment.secret_key,
            "AWS_ENDPOINT_URL": self.environment.s3_cluster_endpoint,
            "AWS_REGION": "us-east-1",
        }
        for body in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": meta},
            {
                **{"apiVersion": "v1", "kind": "Secret", "stringData": secret},
                "metadata": {"name": "s3", "namespace": self.namespace},
            },
        ):
            self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """As administrator."""
        return run(self.environment, "kubectl", *arguments, stdin=stdin)

    def apply(self, name: str, *, steps: int, **more: object) -> None:
        """Ask for a run.

        Args:
            name: Its name.
            steps: How long it trains.
            **more: Fields of its spec, in place of the usual ones.
        """
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "LoRATraining",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "recipe": "sd15",
                "baseModel": {"uri": "s3://bases/small-sd15/"},
                "dataset": {"uri": "s3://datasets/e2e/"},
                "optimization": {"steps": steps},
                "output": {"uri": self.output(name)},
                "credentialsSecretName": "s3",
                "workspace": {"size": "100Mi"},
                "resources": {"cpu": "10m", "memory": "100Mi", "gpus": 0},
                "limits": {"retries": 10},
                **more,
            },
        }

        def create() -> None:
            try:
                self.objects.create_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, PLURAL, body
                )
            except ApiException as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise

        persist(create)

    def change(self, name: str, spec: Object) -> None:
        """What a user may change of a run: a merge patch of its spec."""
        persist(
            lambda: self.objects.patch_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, {"spec": spec}
            )
        )

    def delete(self, name: str) -> None:
        """Delete a run; children go by themselves."""
        persist(
            lambda: _unless_changed(
                lambda: self.objects.delete_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, PLURAL, name
                )
            )
        )

    def upload_now(self, run: Object) -> None:
        """Have a run's next try to store its LoRA begin at once, and not within the hour.

        Args:
            run: As it was read; where it has moved on since, nothing is changed.
        """
        meta = {"resourceVersion": run["metadata"]["resourceVersion"]}
        upload = {"nextTryAt": datetime.now(UTC).isoformat(timespec="seconds")}
        body = {"metadata": meta, "status": {"upload": upload}}
        name = run["metadata"]["name"]
        persist(
            lambda: _unless_changed(
                lambda: self.objects.patch_namespaced_custom_object_status(
                    GROUP, VERSION, self.namespace, PLURAL, name, body
                )
            )
        )

    def output(self, name: str, *, bucket: str = "models") -> str:
        """Where a run's artifact goes."""
        return f"s3://{bucket}/{self.namespace}/{name}/"

    def runs(self) -> dict[str, Object]:
        """All runs by name."""
        found = self.objects.list_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL)
        return {item["metadata"]["name"]: item for item in found["items"]}

    def children(self) -> list[str]:
        """Kind and name of all Jobs, pods and claims."""
        lists = {
            "job": self.batch.list_namespaced_job,
            "pod": self.core.list_namespaced_pod,
            "claim": self.core.list_namespaced_persistent_volume_claim,
        }
        return [
            f"{kind}/{item.metadata.name}"
            for kind, read in lists.items()
            for item in read(self.namespace).items
        ]

    def leader(self) -> str | None:
        """Name of the pod that leads."""
        lease = self.leases.read_namespaced_lease("lora-operator", OPERATOR_NAMESPACE)
        holder: str | None = lease.spec.holder_identity
        return holder or None

    def has_bucket(self, bucket: str) -> bool:
        """Whether it is there."""
        is_there: bool = self.storage.bucket_exists(bucket_name=bucket)
        return is_there

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket unless it is there."""
        if not persist(lambda: self.has_bucket(bucket)):
            persist(lambda: self.storage.make_bucket(bucket_name=bucket))

    def stored(self, *buckets: str) -> dict[str, bytes]:
        """All objects that the runs left in these buckets, by URI."""
        return {
            f"s3://{bucket}/{item.object_name}": self.storage.get_object(
                bucket_name=bucket, object_name=item.object_name
            ).read()
            for bucket in buckets
            for item in self.storage.list_objects(
                bucket_name=bucket, prefix=f"{self.namespace}/", recursive=True
            )
            if item.object_name
        }

    def keep_evidence(self) -> None:
        """Write down all that the API server has of the namespace, before it goes."""
        kinds = "loratrainings,jobs,pods,persistentvolumeclaims,events"
        found = self.kubectl("get", kinds, f"--namespace={self.namespace}", "--output=yaml")
        EVIDENCE.mkdir(parents=True, exist_ok=True)
        path = EVIDENCE / f"{self.namespace}.yaml"
        path.write_text(found)
        print(f"see {path}", flush=True)

    def delete_namespace(self) -> bool:
        """Whether everything goes within the patience we have."""
        try:
            self.kubectl("delete", "namespace", self.namespace, "--wait", "--timeout=120s")
        except DemoError:
            return False
        return True


def persist(do: Callable[[], T]) -> T:
    """Do something against an API server that may be down for a moment.

    One that has just started refuses what it will accept, too, until it has read its roles and
    policies; only that something is not there, or is there already, is its word from the first.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return do()
        except UNREACHABLE as error:
            is_final = isinstance(error, ApiException) and error.status in FINAL_ANSWERS
            if is_final or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _unless_changed(do: Callable[[], object]) -> None:
    try:
        do()
    except ApiException as error:
        if error.status not in FINAL_ANSWERS:
            raise


def is_running(command: str) -> list[int]:
    """Processes of this machine whose command line has this text."""
    done = subprocess.run(["pgrep", "-f", command], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]
