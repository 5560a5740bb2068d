"""The cluster's image store: what it has, what it gets, and ending earlier containers."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lora_cluster import configs
from lora_cluster.errors import ClusterError
from lora_cluster.layout import Record
from lora_cluster.namespaces import enter
from lora_cluster.oci import REF_ANNOTATION, OciFolder, write_archive


class ImageStore:
    """containerd's Kubernetes namespace, seen through `ctr` inside the cluster's namespaces."""

    def __init__(self, record: Record) -> None:
        self._ctr = [
            *enter(record),
            "ctr",
            "--address",
            configs.CONTAINERD_SOCKET,
            "--namespace",
            "k8s.io",
        ]

    def images(self) -> dict[str, str]:
        """Reference to manifest digest, of every image."""
        lines = self._run("images", "list").splitlines()[1:]
        return {line.split()[0]: line.split()[2] for line in lines if line.strip()}

    def send(self, folder: OciFolder, *, reference: str, names: list[str]) -> int:
        """Make an image of `folder` known under `names`, unless it is already.

        Returns:
            Bytes of layers that had to be sent; 0 when the store had it all.
        """
        descriptor = folder.find(reference)
        if descriptor is None:
            known = [d.get("annotations", {}).get(REF_ANNOTATION) for d in folder.index()]
            raise ClusterError("NoSuchImage", f"{folder.path} has no {reference!r}, only {known}.")
        images = self.images()
        if all(images.get(name) == descriptor["digest"] for name in names):
            return 0
        present = set(self._run("content", "list", "--quiet").split())
        with subprocess.Popen(
            [*self._ctr, "images", "import", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdin and process.stdout  # noqa: S101 - both are pipes
            try:
                sent = write_archive(
                    process.stdin,
                    folder,
                    descriptor=descriptor,
                    names=names,
                    present=present,
                )
                process.stdin.close()
            except BrokenPipeError:
                sent = 0
            said = process.stdout.read().decode(errors="replace")
        if process.returncode:
            raise ClusterError("ImportFailed", f"containerd refused {reference}: {said.strip()}")
        return sent

    def import_archive(self, archive: Path) -> str:
        """Import an OCI or Docker archive as it is; returns what `ctr` said."""
        return self._run("images", "import", "--all-platforms", str(archive))

    def remove_containers(self) -> None:
        """Forget all containers and their writable layers; their processes must be gone."""
        containers = self._run("containers", "list", "--quiet").split()
        if not containers:
            return
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._remove, containers))

    def _remove(self, container: str) -> None:
        for argv in (("tasks", "delete", "--force", container), ("containers", "rm", container)):
            subprocess.run([*self._ctr, *argv], check=False, capture_output=True, timeout=20)

    def _run(self, *argv: str) -> str:
        result = subprocess.run(
            [*self._ctr, *argv], capture_output=True, text=True, check=False, timeout=600
        )
        if result.returncode:
            raise ClusterError(
                "ContainerdFailed", f"`ctr {' '.join(argv)}` said: {result.stderr.strip()}"
            )
        return result.stdout
