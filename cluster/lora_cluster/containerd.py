"""The cluster's image store: what it has, what it gets, and ending earlier containers."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lora_cluster import configs
from lora_cluster.errors import ClusterError
from lora_cluster.layout import Layout, Record
from lora_cluster.namespaces import enter
from lora_cluster.oci import REF_ANNOTATION, OciFolder, write_archive

LINK_FROM_BYTES = 1 << 20
_GC_ROOT = "containerd.io/gc.root"


class ImageStore:
    """containerd's Kubernetes namespace, seen through `ctr` inside the cluster's namespaces."""

    def __init__(self, layout: Layout, record: Record) -> None:
        self._blobs = layout.containerd_root / "io.containerd.content.v1.content/blobs/sha256"
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
        linked = [
            digest
            for digest in folder.digests(descriptor)
            if digest not in present and self._link(folder.blob(digest), digest)
        ]
        try:
            sent = self._import(folder, descriptor, names=names, present=present | {*linked})
        finally:
            for digest in linked:  # the image holds them now
                self._run("content", "label", digest, f"{_GC_ROOT}=")
        return sent + sum(folder.blob(digest).stat().st_size for digest in linked)

    def _link(self, blob: Path, digest: str) -> bool:
        """Give containerd a large blob as a hard link instead of a copy, where the disk allows it.

        Its store takes a blob that lies there already as written; what comes on stdin is skipped.
        """
        size = blob.stat().st_size
        if size < LINK_FROM_BYTES:
            return False
        target = self._blobs / digest.partition(":")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(blob)
        except FileExistsError:
            pass
        except OSError:
            return False  # another file system: it will be copied
        expected = ["--expected-size", str(size), "--expected-digest", digest]
        with blob.open("rb") as content:
            ingest = [*self._ctr, "content", "ingest", *expected, f"link-{digest}"]
            done = subprocess.run(ingest, stdin=content, capture_output=True, check=False)
        if done.returncode:
            return False
        # Until the image refers to it, only this keeps the garbage collector away. Was that faster,
        # the blob is copied as others are.
        label = [*self._ctr, "content", "label", digest, f"{_GC_ROOT}=now"]
        return subprocess.run(label, capture_output=True, check=False).returncode == 0

    def _import(
        self,
        folder: OciFolder,
        descriptor: dict[str, Any],
        *,
        names: list[str],
        present: set[str],
    ) -> int:
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
            raise ClusterError("ImportFailed", f"containerd refused {names}: {said.strip()}")
        return sent

    def import_archive(self, archive: Path) -> str:
        """Import an OCI or Docker archive as it is; returns what `ctr` said."""
        return self._run("images", "import", "--all-platforms", str(archive))

    def drop_superseded(self, folder: OciFolder) -> None:
        """Drop trainer and operator images that were built anew since; no container may use any."""
        current = {d.get("annotations", {}).get(REF_ANNOTATION) for d in folder.index()}
        ours = ("localhost/lora-trainer:", "localhost/lora-operator:")
        old = [name for name in self.images() if name.startswith(ours) and name not in current]
        if old:
            self._run("images", "remove", *old)

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
