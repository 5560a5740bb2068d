"""What a way of running a cluster must offer; the command line knows no more than this."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from lora_cluster.errors import ClusterError
from lora_cluster.layout import Layout


class Provider(Protocol):
    """A way of running one cluster."""

    def up(self) -> None:
        """Bring the cluster up, or see that it is; returns when it can be used."""

    def down(self) -> None:
        """Take the cluster away with all it made; nothing to do is success."""

    def status(self) -> list[str]:
        """Lines for a person.

        Raises:
            ClusterError: There is no cluster, or it is not healthy.
        """

    def environment(self) -> dict[str, str]:
        """Variables with which kubectl, helm and S3 clients reach the cluster from the host."""

    def load_image(self, image: str) -> None:
        """Make an image (a reference in the local builder, or an archive) usable by pods."""

    def control(self, operation: str, component: str, *, signal: int) -> str:
        """stop, start, restart or kill a component; returns one line on what is now."""

    def log_file(self, component: str) -> Path:
        """Where a component writes its log."""


def choose(kind: str, layout: Layout) -> Provider:
    """The provider by name; `auto` keeps what is up, else takes kind where Docker answers."""
    from lora_cluster.host import HostProvider  # noqa: PLC0415 - providers import what they alone need
    from lora_cluster.kind import KindProvider  # noqa: PLC0415
    from lora_cluster.layout import readable_record  # noqa: PLC0415

    if kind == "auto":
        record = readable_record(layout)
        kind = record.provider if record else ("kind" if docker_answers() else "host")
    if kind == "host":
        return HostProvider(layout)
    if kind == "kind":
        return KindProvider(layout)
    raise ClusterError("NoSuchProvider", f"{kind!r} is none of host, kind, auto.")


def docker_answers() -> bool:
    """Whether there is a Docker engine and a `kind` to use it with."""
    if not (shutil.which("docker") and shutil.which("kind")):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
