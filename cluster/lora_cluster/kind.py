"""The `kind` provider, for machines with a Docker engine: the same commands, another tool.

It knows processes as containers of the node, so only what kind itself offers is offered.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from lora_cluster import configs
from lora_cluster.commands import FAKE_GPUS, GPU_LABELS
from lora_cluster.errors import ClusterError
from lora_cluster.images import image_folder
from lora_cluster.layout import Layout, Record, load_record, new_keys
from lora_cluster.progress import say

NODE_IMAGE = "kindest/node:v1.35.4"
S3_IMAGE = "versity/versitygw:v1.8.0"


class KindProvider:
    """One single-node kind cluster with fake GPUs and an S3 server as a pod."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def up(self) -> None:
        """Create the cluster unless it exists, then what kind does not bring."""
        record = load_record(self._layout)
        if record is None:
            access, secret = new_keys()
            record = Record(
                provider="kind",
                api_port=0,
                s3_port=19000,
                s3_access_key=access,
                s3_secret_key=secret,
            )
        if self._layout.name not in _run("kind", "get", "clusters").split():
            say("creating the kind cluster")
            _run(
                "kind",
                "create",
                "cluster",
                "--name",
                self._layout.name,
                "--image",
                NODE_IMAGE,
                "--kubeconfig",
                str(self._layout.kubeconfig),
                "--config",
                "-",
                stdin=json.dumps(_cluster_config(record.s3_port)),
            )
        record.save(self._layout)
        _run(
            "kind",
            "export",
            "kubeconfig",
            "--name",
            self._layout.name,
            "--kubeconfig",
            str(self._layout.kubeconfig),
        )
        self._kubectl("apply", "-f", "-", stdin=json.dumps(_s3_objects(record)))
        node = f"{self._layout.name}-control-plane"
        self._kubectl(
            "label",
            "--overwrite",
            "node",
            node,
            *(f"{key}={value}" for key, value in GPU_LABELS.items()),
        )
        patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(FAKE_GPUS)}]
        self._kubectl(
            "patch",
            "node",
            node,
            "--subresource=status",
            "--type=json",
            "--patch",
            json.dumps(patch),
        )
        self._kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=120s")

    def down(self) -> None:
        """Delete the cluster; kind removes all it made."""
        _run("kind", "delete", "cluster", "--name", self._layout.name)
        for file in (self._layout.kubeconfig, self._layout.record_file):
            file.unlink(missing_ok=True)

    def status(self) -> list[str]:
        """What kubectl says of the node."""
        return self._kubectl("get", "nodes", "-o", "wide").splitlines()

    def environment(self) -> dict[str, str]:
        """Variables for clients on the host."""
        record = load_record(self._layout)
        if record is None:
            raise ClusterError("NotRunning", "there is no kind cluster; start it with `up`.")
        return {
            "KUBECONFIG": str(self._layout.kubeconfig),
            "PATH": os.environ.get("PATH", ""),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{record.s3_port}",
            "AWS_ACCESS_KEY_ID": record.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": record.s3_secret_key,
            "AWS_REGION": "us-east-1",
            "LORA_S3_ENDPOINT_IN_CLUSTER": f"http://s3.storage.svc:{configs.S3_PORT}",
        }

    def load_image(self, image: str) -> None:
        """Hand the node an archive, an image that was built here, or one of the Docker engine."""
        if image_folder().find(image):
            with tempfile.TemporaryDirectory(dir=self._layout.cache) as folder:
                archive = Path(folder) / "image.tar"
                source = f"oci:{image_folder().path}:{image}"
                target = f"docker-archive:{archive}:{image}"
                _run("skopeo", "--insecure-policy", "copy", source, target)
                self.load_image(str(archive))
            return
        verb = "image-archive" if Path(image).is_file() else "docker-image"
        _run("kind", "load", verb, image, "--name", self._layout.name)

    def control(self, operation: str, component: str, *, signal: int) -> str:
        """Signal a process of the node; the kubelet or systemd in it restarts what died."""
        if operation not in ("kill", "restart"):
            raise ClusterError("NotOffered", f"kind cannot {operation} a single component.")
        node = f"{self._layout.name}-control-plane"
        return _run("docker", "exec", node, "pkill", f"-{signal}", "-f", component)

    def log_file(self, component: str) -> Path:
        """Logs lie inside the node."""
        raise ClusterError(
            "NotOffered",
            f"use `kind export logs --name {self._layout.name}` for {component}'s log.",
        )

    def _kubectl(self, *argv: str, stdin: str | None = None) -> str:
        return _run("kubectl", "--kubeconfig", str(self._layout.kubeconfig), *argv, stdin=stdin)


def _cluster_config(s3_port: int) -> dict[str, object]:
    mapping = {"containerPort": 30900, "hostPort": s3_port, "listenAddress": "127.0.0.1"}
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{"role": "control-plane", "extraPortMappings": [mapping]}],
    }


def _s3_objects(record: Record) -> dict[str, object]:
    labels = {"app": "s3"}
    keys = {"ROOT_ACCESS_KEY": record.s3_access_key, "ROOT_SECRET_KEY": record.s3_secret_key}
    container = {
        "name": "s3",
        "image": S3_IMAGE,
        "args": ["--port", f":{configs.S3_PORT}", "posix", "--sidecar", "/data/meta", "/data/s3"],
        "envFrom": [{"secretRef": {"name": "s3-root"}}],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data/s3", "subPath": "s3"},
            {"name": "data", "mountPath": "/data/meta", "subPath": "meta"},
        ],
    }
    pod = {"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]}
    port = {"name": "http", "port": configs.S3_PORT, "nodePort": 30900}
    meta = {"name": "s3", "namespace": "storage"}
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "storage"}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "stringData": keys,
            "metadata": {"name": "s3-root", "namespace": "storage"},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"type": "NodePort", "selector": labels, "ports": [port]},
        },
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _run(*argv: str, stdin: str | None = None) -> str:
    try:
        result = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError("ProgramMissing", f"{argv[0]} is not installed.") from error
    if result.returncode:
        raise ClusterError("KindFailed", f"`{' '.join(argv[:4])}` said: {result.stderr.strip()}")
    return result.stdout
