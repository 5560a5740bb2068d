"""The operator as a real process against a real API server, nothing between.

A module of its own because every API test of the operator starts from these two; who plays Job
controller and kubelet between them is the `stage`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kopf

from lora_operator.kube.resources import Resource

Object = dict[str, Any]
# An operator that has to start on a busy machine takes a minute; who waits for long has failed.
PATIENCE_SECONDS = 240.0


class ApiServer:
    """Plain reads and writes as administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        os.environ["KUBECONFIG"] = str(kubeconfig)
        info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
        assert info is not None
        self._server = info.server.rstrip("/")
        self._headers = info.as_http_headers()
        self._tls: ssl.SSLContext = info.as_ssl_context()

    def request(self, verb: str, path: str, body: Object | None = None, kind: str = "") -> Object:
        request = urllib.request.Request(  # noqa: S310
            self._server + path,
            method=verb,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind or "application/json", **self._headers},
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=15) as answer:  # noqa: S310
                document: Object = json.load(answer)
                return document
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace"))
            raise

    def create(self, resource: Resource, body: Object) -> Object:
        return self.request("POST", resource.path(body["metadata"]["namespace"]), body)

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        try:
            return self.request("GET", resource.path(namespace, name))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def list(self, resource: Resource, namespace: str) -> list[Object]:
        items: list[Object] = self.request("GET", resource.path(namespace))["items"]
        return items

    def delete(self, resource: Resource, namespace: str, name: str) -> None:
        # Nobody finalizes or collects garbage here, so what is deleted has to go at once.
        options = {"propagationPolicy": "Background", "gracePeriodSeconds": 0}
        self.request("DELETE", resource.path(namespace, name), options)

    def patch_status(self, resource: Resource, namespace: str, name: str, status: Object) -> Object:
        path = resource.path(namespace, name, "status")
        return self.request("PATCH", path, {"status": status}, "application/merge-patch+json")

    def make_namespace(self, name: str) -> str:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.request("POST", "/api/v1/namespaces", body)
        # The controller that makes it does not run, and without it no pod is admitted.
        account = {"metadata": {"name": "default"}}
        self.request("POST", f"/api/v1/namespaces/{name}/serviceaccounts", account)
        return name


class Operator:
    """One operator process; `start` and `kill` as often as a test likes."""

    def __init__(self, kubeconfig: Path, *arguments: str, identity: str = "") -> None:
        self.kubeconfig = kubeconfig
        self.arguments = arguments
        self.identity = identity
        self.variables: dict[str, str] = {}
        """Environment on top of what every operator gets."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = Path(tempfile.mkstemp(prefix="operator-", suffix=".log")[1])
        weakref.finalize(self, self.log.unlink, missing_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What its process finds around it."""
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "LORA_TRAINER_IMAGE": "lora-trainer:test",
            **({"POD_NAME": self.identity} if self.identity else {}),
            **self.variables,
        }

    @property
    def options(self) -> list[str]:
        """Its command line."""
        port = f"--metrics-port={self.port}"
        return ["--host=127.0.0.1", port, "--log-format=json", *self.arguments]

    def start(self, *, wait: bool = True) -> Operator:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lora_operator", *self.options],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if wait:
            eventually(self._is_up, lambda: f"the operator is ready: {self.log.read_text()}")
        return self

    def kill(self) -> None:
        """As a lost node would: no goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As a rollout would; returns the exit status."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        """As a partition would: it lives, but sees and does nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(timeout=PATIENCE_SECONDS)

    def read(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return self.ready

    @property
    def ready(self) -> bool:
        try:
            return self.read("/readyz") == "ok\n"
        except OSError:
            return False

    @property
    def leads(self) -> bool:
        try:
            return self.metric("lora_operator_leader") == 1
        except OSError:
            # It is not there, or begins anew.
            return False

    def metric(self, name: str) -> float:
        """Sum of all samples of a metric, whatever their labels."""
        values = [
            float(line.rpartition(" ")[2])
            for line in self.read("/metrics").splitlines()
            if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(values)

    def events(self) -> list[Object]:
        """What it logged."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def eventually(look: Callable[[], Any], what: str | Callable[[], str]) -> Any:  # noqa: ANN401
    """Look until there is something to see."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise AssertionError(f"never so: {what if isinstance(what, str) else what()}")
