"""What dies: one function a fault, each as sudden as the real thing.

A module of its own because this list is the test's claim; what must survive it stands elsewhere.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress

from kubernetes import client
from tests.chaos.ground import UNREACHABLE, Ground, is_running, persist
from tests.chaos.standin import CRASH_SIGNAL

from lora_demo.environment import DemoError, cluster
from lora_demo.install import OPERATOR_NAMESPACE

Fault = Callable[[Ground, random.Random], bool]
PAUSE_SECONDS = (2.0, 6.0)


def operator_leader(ground: Ground, _: random.Random) -> bool:
    """The leader's pod is killed with no time to say goodbye."""
    leader = persist(ground.leader)
    if leader is None:
        return False
    options = client.V1DeleteOptions(grace_period_seconds=0)
    with suppress(client.ApiException):
        persist(lambda: ground.core.delete_namespaced_pod(leader, OPERATOR_NAMESPACE, body=options))
    return True


def api_server(_: Ground, __: random.Random) -> bool:
    """The API server's process is killed; the supervisor starts it again."""
    return _kill("apiserver")


def etcd_pause(_: Ground, chance: random.Random) -> bool:
    """Etcd stands still for some seconds, as on a disk that hangs."""
    if not _kill("etcd", "STOP"):
        return False
    time.sleep(chance.uniform(*PAUSE_SECONDS))
    return _kill("etcd", "CONT")


def kubelet(_: Ground, __: random.Random) -> bool:
    """The node's agent is killed; pods go on without it."""
    return _kill("kubelet")


def storage(_: Ground, __: random.Random) -> bool:
    """The object storage is killed."""
    return _kill("s3")


def pod(ground: Ground, chance: random.Random) -> bool:
    """A trainer crashes, or its pod is deleted."""
    if chance.random() < 0.5:
        processes = is_running("python3 /trainer.py")
        if not processes:
            return False
        with suppress(ProcessLookupError):
            os.kill(chance.choice(processes), CRASH_SIGNAL)
        return True
    names = _trainer_pods(ground)
    if not names:
        return False
    with suppress(*UNREACHABLE):
        ground.core.delete_namespaced_pod(chance.choice(names), ground.namespace)
    return True


def drain(ground: Ground, _: random.Random) -> bool:
    """The node takes no more pods and loses by eviction those that train; then it comes back."""
    node = persist(ground.core.list_node).items[0].metadata.name
    persist(lambda: ground.core.patch_node(node, {"spec": {"unschedulable": True}}))
    try:
        names = _trainer_pods(ground)
        for name in names:
            body = client.V1Eviction(
                metadata=client.V1ObjectMeta(name=name, namespace=ground.namespace)
            )
            with suppress(*UNREACHABLE):
                ground.core.create_namespaced_pod_eviction(name, ground.namespace, body)
        time.sleep(1)
    finally:
        # Whatever went wrong: no run after this storm could start on a node that takes no pods.
        persist(lambda: ground.core.patch_node(node, {"spec": {"unschedulable": None}}))
    return bool(names)


FAULTS: dict[Fault, int] = {
    operator_leader: 4,
    pod: 4,
    api_server: 2,
    etcd_pause: 2,
    kubelet: 2,
    storage: 2,
    drain: 1,
}
"""Each with its weight."""


def choose(chance: random.Random) -> Fault:
    """The next fault."""
    return chance.choices(list(FAULTS), weights=list(FAULTS.values()))[0]


def _kill(component: str, signal: str = "KILL") -> bool:
    try:
        cluster("kill", component, "--signal", signal)
    except DemoError:
        return False
    return True


def _trainer_pods(ground: Ground) -> list[str]:
    pods = persist(lambda: ground.core.list_namespaced_pod(ground.namespace)).items
    return sorted(
        each.metadata.name for each in pods if each.status.phase in {"Running", "Pending"}
    )
