"""Container images as plain files: making small ones, and sending only the layers that are missing.

So a changed source file costs a second, not the gigabytes of the layers below it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
REF_ANNOTATION = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """A one-layer image from files of the host.

    Attributes:
        reference: Full name with tag.
        files: Path in the image to file on the host; all are made executable.
        links: Path in the image to what it links to.
        command: Entry point.
        user: Numeric user and group.
    """

    reference: str
    files: dict[str, Path]
    links: dict[str, str]
    command: list[str]
    user: str = "65532:65532"


class OciFolder:
    """A folder in the OCI image layout: blobs by digest, and an index of named images."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def blob(self, digest: str) -> Path:
        """Where the blob of that digest lies or would lie."""
        return self.path / "blobs" / digest.replace(":", "/")

    def index(self) -> list[dict[str, Any]]:
        """Descriptors of the images in the folder."""
        try:
            text = (self.path / "index.json").read_text()
        except FileNotFoundError:
            return []
        manifests: list[dict[str, Any]] = json.loads(text)["manifests"]
        return manifests

    def find(self, reference: str) -> dict[str, Any] | None:
        """The manifest's descriptor of a named image."""
        for descriptor in self.index():
            if descriptor.get("annotations", {}).get(REF_ANNOTATION) == reference:
                return descriptor
        return None

    def digests(self, descriptor: dict[str, Any]) -> list[str]:
        """All blobs of an image: manifest, configuration, layers."""
        manifest = json.loads(self.blob(descriptor["digest"]).read_text())
        parts = [manifest["config"], *manifest["layers"]]
        return [descriptor["digest"], *(part["digest"] for part in parts)]

    def add(self, spec: ImageSpec) -> dict[str, Any]:
        """Make `spec` an image of this folder and return its descriptor."""
        layer = self._put(_layer(spec))
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": spec.command, "User": spec.user, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, **self._put(json.dumps(config).encode())},
            "layers": [{"mediaType": LAYER_TYPE, **layer}],
        }
        descriptor = {"mediaType": MANIFEST_TYPE, **self._put(json.dumps(manifest).encode())}
        self._name(spec.reference, descriptor)
        return {**descriptor, "annotations": {REF_ANNOTATION: spec.reference}}

    def keep_only(self, wanted: Callable[[str], bool]) -> None:
        """Drop images whose reference is not wanted, and blobs that no image uses any more."""
        kept = [d for d in self.index() if wanted(d.get("annotations", {}).get(REF_ANNOTATION, ""))]
        self._write_index(kept)
        used = {digest for descriptor in kept for digest in self.digests(descriptor)}
        for blob in (self.path / "blobs" / "sha256").iterdir():
            if f"sha256:{blob.name}" not in used:
                blob.unlink()

    def _name(self, reference: str, descriptor: dict[str, Any]) -> None:
        others = [
            d for d in self.index() if d.get("annotations", {}).get(REF_ANNOTATION) != reference
        ]
        self._write_index([*others, {**descriptor, "annotations": {REF_ANNOTATION: reference}}])

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        fresh = self.path / "index.json.new"
        fresh.write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
        fresh.replace(self.path / "index.json")

    def _put(self, content: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        target = self.blob(digest)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.replace(target)
        return {"digest": digest, "size": len(content)}


def _layer(spec: ImageSpec) -> bytes:
    """One tar, the same bytes for the same files: times are zero, owners root, order sorted."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, source in sorted(spec.files.items()):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size, entry.mode = source.stat().st_size, 0o755
            with source.open("rb") as content:
                tar.addfile(entry, content)
        for name, target in sorted(spec.links.items()):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    return buffer.getvalue()


def write_archive(
    output: IO[bytes],
    folder: OciFolder,
    *,
    descriptor: dict[str, Any],
    names: Iterable[str],
    present: set[str],
) -> int:
    """Stream an image as an OCI archive, leaving out blobs the receiver has.

    Args:
        output: Where the tar goes.
        folder: Where the image lies.
        descriptor: Its manifest's descriptor.
        names: References under which the receiver shall know it.
        present: Digests that the receiver has already.

    Returns:
        Bytes of blobs sent.
    """
    bare = {key: descriptor[key] for key in ("mediaType", "digest", "size")}
    manifests = [{**bare, "annotations": {"io.containerd.image.name": name}} for name in names]
    sent = 0
    with tarfile.open(fileobj=output, mode="w|", bufsize=1 << 20) as tar:
        for name, content in _head(manifests):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for digest in folder.digests(descriptor):
            if digest in present:
                continue
            entry = tarfile.TarInfo("blobs/" + digest.replace(":", "/"))
            entry.size = folder.blob(digest).stat().st_size
            sent += entry.size
            with folder.blob(digest).open("rb") as content_file:
                tar.addfile(entry, content_file)
    return sent


def _head(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    yield "oci-layout", b'{"imageLayoutVersion": "1.0.0"}'
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    yield "index.json", json.dumps(index).encode()
