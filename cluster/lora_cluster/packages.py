"""Debian packages the host provider stands on; installed when missing, and said so."""

from __future__ import annotations

import os
import shutil
import subprocess

from lora_cluster.errors import ClusterError
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
FOR_IMAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "skopeo": "skopeo"}
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def missing(programs: dict[str, str]) -> list[str]:
    """Packages whose program is not there."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    return sorted(
        {pkg for program, pkg in programs.items() if not shutil.which(program, path=path)}
    )


def ensure(programs: dict[str, str]) -> None:
    """Install the packages of missing programs with apt-get.

    Raises:
        ClusterError: Not root, not Debian, or apt-get failed; the message names the packages.
    """
    packages = missing(programs)
    if not packages:
        return
    wish = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError("PackagesMissing", f"programs are missing; as root, run: {wish}")
    say(f"installing Debian packages: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    for argv in (["apt-get", "update", "-qq"], install):
        result = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            tail = "\n".join((result.stdout + result.stderr).splitlines()[-8:])
            raise ClusterError(
                "PackagesMissing", f"`{' '.join(argv)}` failed:\n{tail}\nTry: {wish}"
            )
