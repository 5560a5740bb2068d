"""Debian packages the host provider stands on; installed when missing, and said so."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from lora_cluster.errors import ClusterError
from lora_cluster.layout import cache_folder
from lora_cluster.locks import locked
from lora_cluster.progress import say

# Program to look for, and the package that brings it.
FOR_LIGHT = {"etcd": "etcd-server"}
FOR_HOST = {
    **FOR_LIGHT,
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/bin/busybox": "busybox-static",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "modprobe": "kmod",
}
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
FOR_CLOCKS = {FAKETIME: "libfaketime"}
FOR_IMAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "skopeo": "skopeo"}
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
PATIENCE_SECONDS = 300.0  # for another apt-get, such as the daily update's
RETRY_SECONDS = 3.0


def missing(programs: dict[str, str]) -> list[str]:
    """Packages whose program is not there."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    return sorted(
        {pkg for program, pkg in programs.items() if not shutil.which(program, path=path)}
    )


def ensure(programs: dict[str, str]) -> None:
    """Install the packages of missing programs with apt-get.

    Several commands may ask at once, and a machine that has just started updates itself: apt-get
    refuses to run twice, so the first are put in line here and the others are waited for.

    Raises:
        ClusterError: Not root, not Debian, or apt-get failed; the message names the packages.
    """
    if not missing(programs):
        return
    with locked(cache_folder() / "packages.lock"):
        packages = missing(programs)  # whoever held the lock may have brought them
        if packages:
            _install(packages)


def _install(packages: list[str]) -> None:
    wish = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError("PackagesMissing", f"programs are missing; as root, run: {wish}")
    say(f"installing Debian packages: {' '.join(packages)}")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    for argv in (["apt-get", "update", "-qq"], install):
        failure = _apt(argv)
        if failure:
            raise ClusterError(
                "PackagesMissing", f"`{' '.join(argv)}` failed:\n{failure}\nTry: {wish}"
            )


def _apt(argv: list[str]) -> str:
    """Runs apt-get, again and again while another one holds its lock; returns why it failed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    told = False
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        result = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if not result.returncode:
            return ""
        said = result.stdout + result.stderr
        if "Could not get lock" not in said or time.monotonic() > deadline:
            return "\n".join(said.splitlines()[-8:])
        if not told:
            say("waiting for another apt-get on this machine to end")
            told = True
        time.sleep(RETRY_SECONDS)
