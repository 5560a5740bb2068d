"""The light form: etcd and the API server alone, on free loopback ports, up in seconds.

It is what tests of schemas, RBAC and watches need; nothing here wants root or namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lora_cluster import commands, configs, packages
from lora_cluster.builds import ensure_binaries, ensure_kwok
from lora_cluster.commands import Component, apiserver, controller_manager, etcd
from lora_cluster.errors import ClusterError, last_lines
from lora_cluster.pki import issue_all
from lora_cluster.probes import admin_context, answers

DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class LightCluster:
    """A running API server; `light_cluster` makes one.

    Attributes:
        kubeconfig: File for clients, as administrator.
        server: The API server's address.
        binaries: Folder with kubectl, helm and the rest.
        audit_log: Every request, metadata level, one JSON document a line.
        etcd: Address of what the API server stores in, for tests that store by themselves.
    """

    def __init__(self, folder: Path, binaries: Path) -> None:
        ports = _free_ports(6)
        etcd_port, peer_port, port, self._manager_port, self._scheduler_port, self._kwok_port = (
            ports
        )
        pki = folder / "pki"
        issue_all(pki, [*configs.CONTROL_PLANE_IDENTITIES, configs.SCHEDULER])
        self._folder = folder
        self._tls = admin_context(pki)
        self.binaries = binaries
        self.server = f"https://127.0.0.1:{port}"
        self.etcd = f"http://127.0.0.1:{etcd_port}"
        self.kubeconfig = folder / "kubeconfig"
        self.audit_log = folder / "audit.log"
        for path, user in (
            (self.kubeconfig, "admin"),
            (folder / "kcm", "controller-manager"),
            (folder / "scheduler", "scheduler"),
        ):
            path.touch(mode=0o600)
            path.write_text(configs.kubeconfig(server=self.server, pki=pki, user=user))
        (folder / "audit-policy.json").write_text(configs.audit_policy())
        self._components = {
            "etcd": etcd(data=folder / "etcd", client_port=etcd_port, peer_port=peer_port),
            "apiserver": apiserver(
                binaries=binaries,
                pki=pki,
                etcd_port=etcd_port,
                port=port,
                # Endpoints of the `kubernetes` Service may not be loopback addresses.
                advertise=configs.NODE_IP,
                bind="127.0.0.1",
                audit_log=self.audit_log,
                audit_policy=folder / "audit-policy.json",
            ),
            "controller-manager": controller_manager(
                binaries=binaries, pki=pki, kubeconfig=folder / "kcm", port=self._manager_port
            ),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_etcd(self) -> None:
        """Start etcd with the data it had."""
        self._start("etcd")

    def start_apiserver(self) -> None:
        """Start the API server and wait until it is ready."""
        self._start("apiserver")

    def stop_apiserver(self) -> None:
        """Kill the API server, as a crash would: watches break, nothing is said to clients."""
        self._stop("apiserver", signal.SIGKILL)

    def start_controller_manager(self) -> None:
        """Start the controllers (Jobs, garbage collection, namespaces); does not wait for them."""
        self._start("controller-manager")

    def start_scheduler(self) -> None:
        """Start the scheduler, without any node; does not wait for its first decision."""
        self._components["scheduler"] = commands.scheduler(
            binaries=self.binaries,
            kubeconfig=self._folder / "scheduler",
            port=self._scheduler_port,
        )
        self._start("scheduler")

    def start_fake_nodes(self, *, stages: Path, pod_cidr: str) -> None:
        """Start scheduler, controllers that bind claims, and KWOK in place of kubelets.

        The nodes themselves are the caller's to create.

        Args:
            stages: KWOK's rules of what becomes of a pod.
            pod_cidr: Addresses of pods.
        """
        binaries, folder = self.binaries, self._folder
        server = self._components["apiserver"]
        # KWOK wants lists to be streamed and insists on it, which needs etcd 3.5; Debian has 3.4.
        without = replace(server, argv=(*server.argv, "--feature-gates=WatchList=false"))
        self._components["apiserver"] = without
        self.stop_apiserver()
        self.start_apiserver()
        for component in (
            commands.controller_manager(
                binaries=binaries,
                pki=folder / "pki",
                kubeconfig=folder / "kcm",
                port=self._manager_port,
                makes_volumes=True,
            ),
            commands.kwok(
                program=ensure_kwok(),
                kubeconfig=self.kubeconfig,
                stages=stages,
                pod_cidr=pod_cidr,
                port=self._kwok_port,
            ),
        ):
            self._components[component.name] = component
            self._start(component.name)
        self.start_scheduler()

    def close(self) -> None:
        """End all processes."""
        for name in reversed(list(self._processes)):
            self._stop(name, signal.SIGKILL)

    def log(self, name: str) -> Path:
        """A component's log."""
        return self._folder / f"{name}.log"

    def _start(self, name: str) -> None:
        if name in self._processes:
            return
        component = self._components[name]
        with self.log(name).open("ab") as output:
            self._processes[name] = subprocess.Popen(
                component.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one C call, safe after fork
            )
        self._await(component)

    def _await(self, component: Component) -> None:
        process = self._processes[component.name]
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not answers(component.probe, context=self._tls):
            if process.poll() is not None or time.monotonic() > deadline:
                log = self.log(component.name)
                raise ClusterError(
                    "NotReady",
                    f"{component.name} did not come up (exit status {process.poll()}); "
                    f"the end of its log:\n{last_lines(log)}",
                )
            time.sleep(POLL_SECONDS)

    def _stop(self, name: str, number: int) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait()


@contextlib.contextmanager
def light_cluster(*, controller_manager: bool = False) -> Iterator[LightCluster]:
    """A fresh API server with RBAC and audit log, gone with all its data at the end of the block.

    Args:
        controller_manager: Run the controllers, too (they need a few seconds to act).
    """
    packages.ensure(packages.FOR_LIGHT)
    binaries = ensure_binaries()
    with tempfile.TemporaryDirectory(prefix="lora-light-") as folder:
        cluster = LightCluster(Path(folder), binaries)
        try:
            cluster.start_etcd()
            cluster.start_apiserver()
            if controller_manager:
                cluster.start_controller_manager()
            yield cluster
        finally:
            cluster.close()


def _die_with_parent() -> None:
    """A test runner that is killed must leave no servers behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
