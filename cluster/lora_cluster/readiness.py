"""Waiting for a cluster, and saying for what: each stage names its component and shows its log."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

from lora_cluster import configs
from lora_cluster.commands import FAKE_GPUS
from lora_cluster.control import ask
from lora_cluster.errors import ClusterError, last_lines
from lora_cluster.images import BUSYBOX_IMAGE, COREDNS_IMAGE, PROVISIONER_IMAGE
from lora_cluster.layout import Layout, Record
from lora_cluster.probes import admin_context, answers
from lora_cluster.progress import say

DEADLINE_SECONDS = 120.0
POLL_SECONDS = 0.1
GIVE_UP_AFTER_RESTARTS = 6


class Readiness:
    """Looks at one cluster from the host."""

    def __init__(self, layout: Layout, record: Record) -> None:
        self._layout = layout
        self._record = record
        self._context: ssl.SSLContext | None = None

    def components(self) -> list[dict[str, Any]]:
        """The supervisor's report on each component."""
        reports: list[dict[str, Any]] = ask(self._layout, {"op": "status"})["components"]
        return reports

    def component(self, name: str) -> None:
        """Wait until a component answers."""

        def answers_now() -> bool:
            try:
                return bool(ask(self._layout, {"op": "ready", "component": name})["ready"])
            except ClusterError:
                if (
                    not self._layout.control_socket.exists()
                    or not Path(f"/proc/{self._record.supervisor_pid}").exists()
                ):
                    return False
                raise

        self._wait(answers_now, what=f"{name} answers", component=name)

    def apply_base(self) -> None:
        """Create what a cluster has besides Kubernetes: DNS, volumes, the way to S3."""
        text = Template((Path(__file__).parent / "manifests" / "base.yaml").read_text()).substitute(
            s3_port=configs.S3_PORT,
            node_ip=configs.NODE_IP,
            dns_ip=configs.DNS_SERVICE_IP,
            volumes=self._layout.state / "volumes",
            coredns_image=COREDNS_IMAGE,
            provisioner_image=PROVISIONER_IMAGE,
            busybox_image=BUSYBOX_IMAGE,
        )
        kubectl = [str(self._layout.state / "bin" / "kubectl"), "--kubeconfig"]
        apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"]
        result = subprocess.run(
            [*kubectl, str(self._layout.kubeconfig), *apply],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise ClusterError("ManifestsRefused", f"kubectl apply said: {result.stderr.strip()}")

    def cluster(self) -> None:
        """Wait for the node, DNS, volumes and S3."""
        stages: list[tuple[str, str, Callable[[], bool]]] = [
            ("s3 answers from the host", "s3", self._s3_answers),
            ("the node is Ready", "kubelet", self._node_ready),
            (f"the node offers {FAKE_GPUS} GPUs", "fakegpu", self._gpus_offered),
            ("CoreDNS is available", "kubelet", self._coredns_available),
            ("volumes can be provisioned", "kubelet", self._provisioner_available),
        ]
        for what, component, check in stages:
            self._wait(check, what=what, component=component)

    def problems(self) -> list[str]:
        """What is not as it should be right now."""
        checks = {
            "the API server does not answer from the host": self._api_answers,
            "S3 does not answer from the host": self._s3_answers,
            "the node is not Ready": self._node_ready,
            f"the node does not offer {FAKE_GPUS} GPUs": self._gpus_offered,
            "CoreDNS is not available": self._coredns_available,
            "the volume provisioner is not available": self._provisioner_available,
        }
        return [text for text, check in checks.items() if not check()]

    def _wait(self, check: Callable[[], bool], *, what: str, component: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not check():
            if time.monotonic() > deadline or self._crash_loops(component):
                log = self._layout.log / f"{component}.log"
                if not log.exists():
                    log = self._layout.log / "supervisor.log"
                raise ClusterError(
                    "NotReady",
                    f"waited in vain until {what}. The end of {log}:\n{last_lines(log)}\n"
                    "`status` shows the rest; `down` and `up` start afresh.",
                )
            time.sleep(POLL_SECONDS)
        say(what)

    def _crash_loops(self, component: str) -> bool:
        try:
            report = next(c for c in self.components() if c["name"] == component)
        except ClusterError:
            # The supervisor takes a moment to listen; a dead one will not.
            return not Path(f"/proc/{self._record.supervisor_pid}").exists()
        return not report["running"] and int(report["restarts"]) >= GIVE_UP_AFTER_RESTARTS

    def _get(self, path: str) -> dict[str, Any]:
        self._context = self._context or admin_context(self._layout.pki)
        url = f"https://127.0.0.1:{self._record.api_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5, context=self._context) as answer:
                document: dict[str, Any] = json.load(answer)
                return document
        except (OSError, ValueError):
            return {}

    def _api_answers(self) -> bool:
        return bool(self._get("/version"))

    def _s3_answers(self) -> bool:
        try:
            urllib.request.urlopen(
                f"http://127.0.0.1:{self._record.s3_port}/health", timeout=5
            ).close()
        except urllib.error.HTTPError:
            return True  # an S3 server that refuses is an S3 server that answers
        except OSError:
            return False
        return answers(f"tcp:127.0.0.1:{self._record.s3_port}")

    def _node(self) -> dict[str, Any]:
        status: dict[str, Any] = self._get(f"/api/v1/nodes/{configs.NODE_NAME}").get("status", {})
        return status

    def _node_ready(self) -> bool:
        conditions = {c["type"]: c["status"] for c in self._node().get("conditions", [])}
        return conditions.get("Ready") == "True"

    def _gpus_offered(self) -> bool:
        return bool(self._node().get("allocatable", {}).get("nvidia.com/gpu") == str(FAKE_GPUS))

    def _coredns_available(self) -> bool:
        return self._available("kube-system", "coredns")

    def _provisioner_available(self) -> bool:
        return self._available("local-path-storage", "provisioner")

    def _available(self, namespace: str, name: str) -> bool:
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
        return int(self._get(path).get("status", {}).get("availableReplicas", 0)) >= 1
