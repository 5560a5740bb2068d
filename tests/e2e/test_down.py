"""`lora-cluster down` leaves nothing: not after a normal life, not after a violent end.

It runs on a second cluster beside the installed one, which must not notice.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Cluster

from lora_cluster.images import BUSYBOX_IMAGE
from lora_cluster.layout import layout_for, load_record

pytestmark = pytest.mark.e2e
SPARE = "spare"
LAYOUT = layout_for(SPARE)
Machine = dict[str, set[str]]
OWN = Path("/proc/self/ns/pid").readlink()
NAMESPACES = ("mnt", "net", "pid", "ipc")


POD = f"""
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data, namespace: default}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: holder, namespace: default}}
spec:
  containers:
  - name: holder
    image: {BUSYBOX_IMAGE}
    command: [/bin/busybox, sleep, "3600"]
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
"""


def tool(*arguments: str, stdin: str | None = None) -> None:
    command = [sys.executable, "-m", "lora_cluster", "--name", SPARE, "--provider", "host"]
    done = subprocess.run(
        [*command, *arguments], check=False, capture_output=True, text=True, input=stdin
    )
    assert done.returncode == 0, done.stderr


def machine() -> Machine:
    """What of this machine a cluster could leave something in."""
    processes = [path for path in Path("/proc").glob("[0-9]*") if _is_ours(path)]
    return {
        "processes": {_command(path) for path in processes},
        "namespaces": {link for path in processes for link in _namespaces(path)},
        "mounts": set(Path("/proc/self/mounts").read_text().splitlines()),
        "control groups": {str(path) for path in Path("/sys/fs/cgroup").glob("*/lora-*")}
        | {str(path) for path in Path("/sys/fs/cgroup").glob("lora-*")},
        "network interfaces": {path.name for path in Path("/sys/class/net").iterdir()},
        "state folders": {path.name for path in LAYOUT.state.parent.iterdir()},
        "folders": {
            path
            for path in ("/var/lib/cni", "/var/lib/kubelet", "/etc/cni", "/var/log/pods")
            if Path(path).exists()
        },
    }


def _is_ours(process: Path) -> bool:
    """Whether a process has to do with the spare cluster or sits in namespaces not ours."""
    try:
        in_namespace = (process / "ns/pid").readlink() != OWN
    except OSError:
        return False
    return in_namespace or str(LAYOUT.state) in _command(process)


def _command(process: Path) -> str:
    try:
        return f"{process.name} " + (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _namespaces(process: Path) -> Iterator[str]:
    for kind in NAMESPACES:
        try:
            yield str((process / "ns" / kind).readlink())
        except OSError:
            return


def settled(before: Machine) -> Machine:
    """What is new since `before`, once the pods of the cluster beside have come to rest."""
    deadline = time.monotonic() + 20
    while True:
        new = {what: found - before[what] for what, found in machine().items()}
        new = {what: found for what, found in new.items() if found}
        if not new or time.monotonic() > deadline:
            return new
        time.sleep(0.5)


@pytest.fixture
def before(cluster: Cluster) -> Iterator[Machine]:
    """The machine before the spare cluster; ends that cluster even where a test fails."""
    assert cluster.storage.bucket_exists("datasets")  # the other cluster is there and works
    yield machine()
    tool("down")
    shutil.rmtree(LAYOUT.containerd_root, ignore_errors=True)


def start_a_pod_with_a_volume() -> None:
    """Now there are shims, pod mounts, pod interfaces and control groups to forget."""
    tool("kubectl", "--", "apply", "-f", "-", stdin=POD)
    tool("kubectl", "--", "wait", "pod/holder", "--for=condition=Ready", "--timeout=60s")


def test_nothing_is_left_after_a_normal_life(before: Machine, cluster: Cluster) -> None:
    tool("up")
    start_a_pod_with_a_volume()
    new = {what for what, found in machine().items() if found - before[what]}
    assert new >= {"processes", "namespaces", "control groups", "state folders"}
    tool("down")
    assert settled(before) == {}
    assert " Ready " in cluster.kubectl("get", "nodes")


def test_nothing_is_left_after_the_supervisor_was_killed(before: Machine) -> None:
    tool("up")
    start_a_pod_with_a_volume()
    record = load_record(LAYOUT)
    assert record is not None
    os.kill(record.supervisor_pid, signal.SIGKILL)
    tool("down")
    assert settled(before) == {}
