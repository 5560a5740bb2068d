"""The light cluster itself: it serves, survives a crash of its API server, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cluster.light import LightCluster, light_cluster

pytestmark = pytest.mark.api


@pytest.fixture(scope="module")
def cluster() -> Iterator[LightCluster]:
    with light_cluster() as running:
        yield running


def kubectl(cluster: LightCluster, *argv: str) -> str:
    command = [str(cluster.binaries / "kubectl"), "--kubeconfig", str(cluster.kubeconfig), *argv]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_reports_the_pinned_version(cluster: LightCluster) -> None:
    version = json.loads(kubectl(cluster, "version", "-o", "json"))["serverVersion"]["gitVersion"]
    assert version == "v1.35.4"


def test_rbac_refuses_those_who_have_no_right(cluster: LightCluster) -> None:
    as_nobody = ["auth", "can-i", "list", "secrets", "--as", "nobody"]
    command = [str(cluster.binaries / "kubectl"), "--kubeconfig", str(cluster.kubeconfig)]
    answer = subprocess.run([*command, *as_nobody], capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "no"


def test_objects_survive_a_crash_of_the_api_server(cluster: LightCluster) -> None:
    kubectl(cluster, "create", "configmap", "kept", "--from-literal=a=b")
    cluster.stop_apiserver()
    cluster.start_apiserver()
    assert kubectl(cluster, "get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"


def test_every_request_is_in_the_audit_log(cluster: LightCluster) -> None:
    kubectl(cluster, "create", "configmap", "audited")
    lines = [json.loads(line) for line in cluster.audit_log.read_text().splitlines()]
    names = [line.get("objectRef", {}).get("name") for line in lines if line["verb"] == "create"]
    assert "audited" in names


def test_nothing_is_left_when_the_block_ends() -> None:
    with light_cluster() as running:
        folder = running.kubeconfig.parent
    assert not folder.exists()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes()
        except OSError:
            continue  # it ended while we looked
        assert str(folder).encode() not in command
