"""The `host` provider: real Kubernetes processes in namespaces of their own, no engine needed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal as signals
import socket
import sys
from dataclasses import asdict, replace
from pathlib import Path

from lora_cluster import configs, namespaces, packages
from lora_cluster.builds import ensure_binaries
from lora_cluster.commands import host_components
from lora_cluster.containerd import ImageStore
from lora_cluster.control import ask
from lora_cluster.errors import ClusterError
from lora_cluster.images import (
    archive_or_reference,
    full_name,
    image_folder,
    system_folder,
    system_images,
)
from lora_cluster.layout import (
    Layout,
    Record,
    find_checkout,
    load_record,
    new_keys,
    readable_record,
)
from lora_cluster.locks import locked
from lora_cluster.pki import issue_all
from lora_cluster.progress import say
from lora_cluster.readiness import Readiness

API_PORT, S3_PORT = 16443, 19000


class HostProvider:
    """One cluster on this machine, as root."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def up(self) -> None:
        """Build, start, wait; a cluster that runs is only checked."""
        if os.geteuid() != 0:
            raise ClusterError("NotRoot", "namespaces and mounts need root; run this with sudo.")
        with self._alone():
            record = load_record(self._layout)
            if record and namespaces.is_alive(record):
                say(f"cluster {self._layout.name!r} is running; checking it")
            else:
                record = self._start(record)
            self._make_ready(record)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Nobody else starts or ends this cluster meanwhile."""
        return locked(self._layout.cache / f"up-{self._layout.name}.lock")

    def _start(self, old: Record | None) -> Record:
        packages.ensure(packages.FOR_HOST)
        binaries = ensure_binaries()
        system_images(binaries)
        self._sweep()
        say("starting the cluster's processes")
        self._write_files()
        api, api_port = _listen(old.api_port if old else API_PORT)
        s3, s3_port = _listen(old.s3_port if old else S3_PORT)
        access, secret = (old.s3_access_key, old.s3_secret_key) if old else new_keys()
        record = Record(
            provider="host",
            api_port=api_port,
            s3_port=s3_port,
            s3_access_key=access,
            s3_secret_key=secret,
        )
        record.save(self._layout)
        self._write_kubeconfigs(record)
        listeners = {"apiserver": api.fileno(), "s3": s3.fileno()}
        pid = self._spawn(record, binaries, listeners)
        for listener in (api, s3):
            listener.close()  # the forwarder holds them now
        record = replace(record, supervisor_pid=pid, supervisor_started=namespaces.start_time(pid))
        record.save(self._layout)
        (self._layout.state / "bin").unlink(missing_ok=True)
        (self._layout.state / "bin").symlink_to(binaries)
        return record

    def _spawn(self, record: Record, binaries: Path, listeners: dict[str, int]) -> int:
        layout = self._layout
        components = host_components(
            layout, record, binaries=binaries, python=sys.executable, listeners=listeners
        )
        plan = layout.state / "plan.json"
        plan.touch(mode=0o600)  # the S3 server's password is in it
        plan.write_text(
            json.dumps({"state": str(layout.state), "components": [asdict(c) for c in components]})
        )
        namespaces.make_cgroups(layout.name)
        return namespaces.spawn(
            [sys.executable, "-m", "lora_cluster.supervisor", str(plan)],
            log=layout.log / "supervisor.log",
            pass_fds=tuple(listeners.values()),
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": str(find_checkout() / "cluster"),
                "HOME": "/root",
                "LANG": "C.UTF-8",
            },
        )

    def _write_files(self) -> None:
        layout = self._layout
        namespaces.make_mount_points(layout)
        for folder in ("etcd", "s3-data", "s3-accounts", "s3-metadata", "volumes", "log/pods"):
            (layout.state / folder).mkdir(parents=True, exist_ok=True)
        (layout.state / "etcd").chmod(0o700)
        (layout.state / "volumes").chmod(0o755)
        layout.containerd_root.mkdir(parents=True, exist_ok=True)
        issue_all(layout.pki, configs.CONTROL_PLANE_IDENTITIES + configs.NODE_IDENTITIES)
        files = {
            "containerd.toml": configs.containerd(root=layout.containerd_root),
            "cni/10-lora.conflist": configs.cni(),
            "audit-policy.json": configs.audit_policy(),
            "kubelet.json": configs.kubelet(
                pki=layout.pki,
                cgroup_root=f"/{namespaces.cgroup_name(layout.name)}",
                pod_logs=Path("/var/log/pods"),
                volume_plugins=layout.state / "volume-plugins",
            ),
        }
        for name, text in files.items():
            (layout.conf / name).write_text(text)

    def _write_kubeconfigs(self, record: Record) -> None:
        inside = f"https://127.0.0.1:{configs.API_PORT}"
        outside = f"https://127.0.0.1:{record.api_port}"
        users = {"controller-manager": inside, "scheduler": inside, "kubelet": inside}
        for user, server in {**users, "proxy": inside, "admin": outside}.items():
            file = "kubeconfig" if user == "admin" else f"{user}.kubeconfig"
            path = self._layout.conf / file
            path.touch(mode=0o600)
            path.write_text(configs.kubeconfig(server=server, pki=self._layout.pki, user=user))

    def _make_ready(self, record: Record) -> None:
        ready = Readiness(self._layout, record)
        ready.component("containerd")
        kubelet = next(c for c in ready.components() if c["name"] == "kubelet")
        store = ImageStore(self._layout, record)
        if not kubelet["wanted"]:
            store.remove_containers()
            store.drop_superseded(image_folder())
        for reference in system_images(self._layout.state / "bin"):
            store.send(system_folder(), reference=reference, names=[reference])
        if not kubelet["wanted"]:
            ask(self._layout, {"op": "start", "component": "kubelet"})
        ready.component("apiserver")
        ready.apply_base()
        ready.cluster()
        say(f"cluster {self._layout.name!r} is ready")

    def down(self) -> None:
        """End all processes, then remove what they left; works on wreckage, too."""
        with self._alone():
            self._end()
        say(
            f"cluster {self._layout.name!r} is gone; images and builds stay in {self._layout.cache}"
        )

    def _end(self) -> None:
        record = readable_record(self._layout)
        if record and namespaces.is_alive(record):
            with contextlib.suppress(ClusterError, OSError):
                ask(self._layout, {"op": "stop", "component": "kubelet", "signal": signals.SIGKILL})
                namespaces.kill_cgroup(self._layout.name)
                ImageStore(self._layout, record).remove_containers()
            namespaces.kill_everything(record)
        self._sweep()
        shutil.rmtree(self._layout.state, ignore_errors=True)
        namespaces.remove_mount_points()
        left = namespaces.leftovers(self._layout)
        if left:
            raise ClusterError("LeftBehind", "still there after `down`: " + "; ".join(left))

    def _sweep(self) -> None:
        """Remove what a crash or a reboot may have left."""
        namespaces.kill_strays(self._layout)
        namespaces.remove_cgroups(self._layout.name)
        namespaces.unmount_below(self._layout.state)
        self._layout.control_socket.unlink(missing_ok=True)
        for stale in ("cni/networks", "cni/results"):  # addresses of pods that are no more
            shutil.rmtree(self._layout.state / stale, ignore_errors=True)

    def status(self) -> list[str]:
        """A line per component and one for the whole."""
        record = self._record()
        if not namespaces.is_alive(record):
            raise ClusterError(
                "NotRunning", f"cluster {self._layout.name!r} has died; run `up` to restart it."
            )
        ready = Readiness(self._layout, record)
        lines = [
            f"{c['name']:20} {'running' if c['running'] else 'DOWN':8} restarts={c['restarts']}"
            for c in ready.components()
        ]
        problems = ready.problems()
        if problems:
            raise ClusterError("NotReady", "\n".join([*lines, *problems]))
        return [
            *lines,
            f"ready: API https://127.0.0.1:{record.api_port}, "
            f"S3 http://127.0.0.1:{record.s3_port}, state {self._layout.state}",
        ]

    def environment(self) -> dict[str, str]:
        """Variables for clients on the host, and the addresses that pods use."""
        record = self._record()
        return {
            "KUBECONFIG": str(self._layout.kubeconfig),
            "PATH": f"{self._layout.state / 'bin'}:{os.environ.get('PATH', '')}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{record.s3_port}",
            "AWS_ACCESS_KEY_ID": record.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": record.s3_secret_key,
            "AWS_REGION": "us-east-1",
            "LORA_S3_ENDPOINT_IN_CLUSTER": f"http://s3.storage.svc:{configs.S3_PORT}",
            "LORA_CLUSTER_AUDIT_LOG": str(self._layout.audit_log),
        }

    def load_image(self, image: str) -> None:
        """Send an image to containerd, layers it lacks only."""
        record = self._record()
        store = ImageStore(self._layout, record)
        archive, reference = archive_or_reference(image)
        if archive:
            say(store.import_archive(archive).strip())
            return
        sent = store.send(image_folder(), reference=reference, names=[full_name(reference)])
        say(f"{full_name(reference)}: {sent / 1e6:.1f} MB of new layers loaded")

    def control(self, operation: str, component: str, *, signal: int) -> str:
        """Pass on to the supervisor; `start` and `restart` return when the component answers."""
        record = self._record()
        ask(self._layout, {"op": operation, "component": component, "signal": signal})
        if operation in ("start", "restart"):
            Readiness(self._layout, record).component(component)
            return f"{component} runs"
        if operation == "stop":
            return f"{component} is down until `start {component}`"
        return f"{component} got signal {signal}; if it dies, it is restarted"

    def log_file(self, component: str) -> Path:
        """The component's log in the state folder."""
        path = self._layout.log / f"{component}.log"
        if not path.exists():
            known = sorted(p.stem for p in self._layout.log.glob("*.log"))
            raise ClusterError("NoSuchLog", f"there is no {path}; there are logs of: {known}.")
        return path

    def _record(self) -> Record:
        record = load_record(self._layout)
        if record is None:
            raise ClusterError(
                "NotRunning", f"there is no cluster {self._layout.name!r}; start it with `up`."
            )
        return record


def _listen(preferred: int) -> tuple[socket.socket, int]:
    """A socket on 127.0.0.1, on the preferred port if it is free."""
    for port in (preferred, 0):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
            return listener, listener.getsockname()[1]
        listener.close()
    raise ClusterError("NoPort", "no port is free on 127.0.0.1.")
