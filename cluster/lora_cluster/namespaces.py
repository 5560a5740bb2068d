"""All that needs kernel privileges: making the namespaces a cluster lives in, and ending them.

Kept apart so that the rest can be read, and tested, without root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from lora_cluster import configs
from lora_cluster.errors import ClusterError
from lora_cluster.layout import Layout, Record, state_root

# Paths that components insist on; inside, each is bound to a folder of the state.
PRIVATE_FOLDERS = {
    "/var/lib/cni": "cni",
    "/var/lib/kubelet": "kubelet",
    "/var/log": "log",
    "/etc/cni/net.d": "conf/cni",
}
CGROUPS = Path("/sys/fs/cgroup")
KERNEL_MODULES = ("overlay", "br_netfilter")


def cgroup_name(name: str) -> str:
    """The control group under which a cluster's pods run."""
    return f"lora-cluster-{name}"


def cgroup_folders(name: str) -> list[Path]:
    """That group's folder in each hierarchy (version 1) or the one (version 2), there or not."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / cgroup_name(name)]
    hierarchies = {path.resolve() for path in CGROUPS.iterdir() if path.is_dir()}
    return sorted(
        path / cgroup_name(name) for path in hierarchies if (path / "cgroup.procs").exists()
    )


def make_cgroups(name: str) -> None:
    """The kubelet wants its root group to exist everywhere."""
    for folder in cgroup_folders(name):
        folder.mkdir(exist_ok=True)
        if folder.parent.name == "cpuset":  # a cpuset without processors accepts no process
            for file in ("cpuset.cpus", "cpuset.mems"):
                (folder / file).write_text((folder.parent / file).read_text())


def make_mount_points(layout: Layout) -> None:
    """Folders the host lacks become empty ones; `remove_mount_points` takes them away again."""
    for target, source in PRIVATE_FOLDERS.items():
        Path(target).mkdir(parents=True, exist_ok=True)
        (layout.state / source).mkdir(parents=True, exist_ok=True)
    for module in KERNEL_MODULES:
        subprocess.run(["modprobe", "-q", module], check=False, capture_output=True)


def remove_mount_points() -> None:
    """Remove the empty folders, unless another cluster is there: its mounts would go with them."""
    root = state_root()
    if root.exists() and any(root.iterdir()):
        return
    for target in ("/var/lib/cni", "/var/lib/kubelet", "/etc/cni/net.d", "/etc/cni"):
        with contextlib.suppress(OSError):  # not empty: somebody else's
            Path(target).rmdir()
    with contextlib.suppress(OSError):
        root.rmdir()


def prepare_inside(state: Path) -> None:
    """First act of the supervisor, inside: private folders, a bridge, routing."""
    _run("mount", "--make-rshared", "/")
    # Programs expect /run/lock; a fresh /run keeps sockets of containerd and its shims inside.
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/lock").mkdir()
    for target, source in PRIVATE_FOLDERS.items():
        _run("mount", "--bind", str(state / source), target)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "cni0", "type", "bridge")
    _run("ip", "addr", "add", f"{configs.NODE_IP}/16", "dev", "cni0")
    _run("ip", "link", "set", "cni0", "up")
    # Leads nowhere; some programs take the node's address from the default route.
    _run("ip", "route", "add", "default", "via", configs.NODE_IP)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with contextlib.suppress(OSError):  # without it, services between pods of one bridge go unseen
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")


def spawn(argv: list[str], *, log: Path, pass_fds: tuple[int, ...], env: dict[str, str]) -> int:
    """Start `argv` as process 1 of fresh mount, network, process and IPC namespaces.

    Returns:
        The pid, in the host's view, of the `unshare` that stays as its parent.
    """
    unshare = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*unshare, "--mount-proc", "--propagation", "private", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
            cwd="/",
            env=env,
        )
    return process.pid


def start_time(pid: int) -> int:
    """When a process started, in ticks since boot, which tells reused pids apart; 0 if none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def is_alive(record: Record) -> bool:
    """Whether the supervisor that `up` started still runs."""
    started = start_time(record.supervisor_pid) if record.supervisor_pid else 0
    return started != 0 and started == record.supervisor_started


def enter(record: Record) -> list[str]:
    """The prefix that runs a command inside the cluster's namespaces.

    Raises:
        ClusterError: The cluster does not run.
    """
    pid = record.supervisor_pid
    try:
        child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    except (OSError, IndexError) as error:
        raise ClusterError("NotRunning", "the cluster does not run; start it with `up`.") from error
    return ["nsenter", "--target", child, "--mount", "--net", "--"]


def kill_everything(record: Record) -> None:
    """End process 1 of the namespace; the kernel ends the rest and drops mounts and network."""
    if not is_alive(record):
        return
    pid = record.supervisor_pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for victim in [*map(int, children), pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while is_alive(record) or any(start_time(int(child)) for child in children):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise ClusterError(
                "WillNotDie", f"process {pid} survives SIGKILL; see `ps -o stat {pid}`."
            )
        time.sleep(0.02)


def cgroup_processes(name: str) -> set[int]:
    """Processes still in the cluster's control groups (host's view)."""
    found: set[int] = set()
    for folder in cgroup_folders(name):
        for file in folder.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(map(int, file.read_text().split()))
    return found


def kill_cgroup(name: str) -> None:
    """Kill every process of the cluster's pods."""
    for pid in cgroup_processes(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_strays(layout: Layout) -> None:
    """End supervisors of this state folder that no record knows of any more."""
    marker = str(layout.state / "plan.json")
    for pid, command in _processes():
        if command[:1] == ["unshare"] and command[-1] == marker:
            record = Record(
                provider="host",
                api_port=0,
                s3_port=0,
                s3_access_key="",
                s3_secret_key="",
                supervisor_pid=pid,
                supervisor_started=start_time(pid),
            )
            kill_everything(record)


def unmount_below(folder: Path) -> None:
    """Detach mounts under a folder, in this mount namespace."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        target = line.split()[1]
        if target.startswith(f"{folder}/"):
            _run("umount", "--lazy", target)


def remove_cgroups(name: str) -> None:
    """Kill what is left in the cluster's control groups and remove them, leaves first."""
    for _ in range(100):
        kill_cgroup(name)
        for folder in cgroup_folders(name):
            for path, _folders, _files in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()
        if not any(folder.exists() for folder in cgroup_folders(name)):
            return
        time.sleep(0.05)


def leftovers(layout: Layout) -> list[str]:
    """What of a cluster that is down still exists, in words; empty when all is well."""
    found = [f"control group {path}" for path in cgroup_folders(layout.name) if path.exists()]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [f"mount {line.split()[1]}" for line in mounts if f"{layout.state}/" in line]
    if layout.state.exists():
        found.append(f"folder {layout.state}")
    for pid, command in _processes():
        if pid != os.getpid() and any(f"{layout.state}/" in word for word in command):
            found.append(f"process {pid} {' '.join(command)[:80]}")
    return found


def _processes() -> list[tuple[int, list[str]]]:
    """All processes with their command lines; kernel threads have none and are left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if command:
                found.append((int(folder.name), command))
    return found


def _run(*argv: str) -> None:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ClusterError("SetupFailed", f"`{' '.join(argv)}` said: {result.stderr.strip()}")
