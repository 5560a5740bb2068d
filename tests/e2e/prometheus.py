"""A real Prometheus that scrapes the real operator, for as long as a test needs it.

Apart from the tests because its only subject is running the Debian package's binary: it reaches
the operator's metrics through the API server, as a person with kubectl would.
"""

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from lora_cluster import packages
from lora_demo.environment import Environment
from lora_demo.install import OPERATOR_NAMESPACE, RELEASE

SCRAPE_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server.

    Attributes:
        address: host:port of its HTTP API.
        started: Unix time at which it was started.
    """

    address: str
    started: float

    def series(self, query: str) -> list[dict[str, Any]]:
        """All series that a query gave between the start and now, one sample a second."""
        parameters = urllib.parse.urlencode(
            {"query": query, "start": self.started, "end": time.time(), "step": "2"}
        )
        found: list[dict[str, Any]] = self._get(f"/api/v1/query_range?{parameters}")["result"]
        return found

    def is_scraping(self) -> bool:
        """Whether the operator is a healthy target."""
        targets = self._get("/api/v1/targets")["activeTargets"]
        return [target["health"] for target in targets] == ["up"]

    def _get(self, path: str) -> Any:  # noqa: ANN401
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return json.load(answer)["data"]


@contextmanager
def running_prometheus(environment: Environment) -> Iterator[Prometheus]:
    """Starts Prometheus on a free loopback port and waits until it scrapes the operator."""
    packages.ensure({"prometheus": "prometheus"})
    binary = shutil.which("prometheus") or "prometheus"
    with tempfile.TemporaryDirectory(prefix="lora-prometheus-") as folder:
        settings = Path(folder) / "prometheus.yml"
        settings.write_text(yaml.safe_dump(_settings(environment, Path(folder))))
        address = f"127.0.0.1:{_free_port()}"
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={settings}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={address}",
                "--log.level=error",
            ]
        )
        try:
            yield _wait_until_scraping(Prometheus(address, time.time()))
        finally:
            process.terminate()
            process.wait(timeout=30)


def _settings(environment: Environment, folder: Path) -> dict[str, Any]:
    """Scrapes the metrics Service through the API server's proxy, with the admin's certificate."""
    access = client.Configuration()
    config.load_kube_config(environment.variables["KUBECONFIG"], client_configuration=access)
    port = "metrics"
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [
            {
                "job_name": "lora-operator",
                "scheme": "https",
                "metrics_path": (
                    f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/services/"
                    f"{RELEASE}-metrics:{port}/proxy/metrics"
                ),
                "tls_config": {
                    "ca_file": _copy(access.ssl_ca_cert, folder / "ca.crt"),
                    "cert_file": _copy(access.cert_file, folder / "client.crt"),
                    "key_file": _copy(access.key_file, folder / "client.key"),
                },
                "static_configs": [{"targets": [access.host.removeprefix("https://")]}],
            }
        ],
    }


def _copy(source: str, target: Path) -> str:
    """The client library deletes its temporary certificate files; Prometheus keeps its own."""
    shutil.copyfile(source, target)
    return str(target)


def _wait_until_scraping(prometheus: Prometheus) -> Prometheus:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if prometheus.is_scraping():
                return prometheus
        except OSError:
            pass  # It is still starting.
        time.sleep(0.5)
    raise AssertionError("Prometheus never scraped the operator")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
