"""Which images there are and where they wait: one OCI folder holds what clusters load."""

from __future__ import annotations

from pathlib import Path

from lora_cluster.configs import SANDBOX_IMAGE
from lora_cluster.errors import ClusterError
from lora_cluster.layout import cache_folder
from lora_cluster.locks import locked
from lora_cluster.oci import ImageSpec, OciFolder

BUSYBOX_IMAGE = SANDBOX_IMAGE  # the pause process is its `sleep`, the volume helper its shell
COREDNS_IMAGE = "localhost/lora-coredns:1"
PROVISIONER_IMAGE = "localhost/lora-provisioner:1"
APPLETS = (
    "sh",
    "sleep",
    "mkdir",
    "rm",
    "chmod",
    "cat",
    "ls",
    "wget",
    "nslookup",
    "nc",
    "id",
    "true",
)


def image_folder() -> OciFolder:
    """Where images that buildah built wait to be loaded."""
    return OciFolder(cache_folder() / "images")


def system_folder() -> OciFolder:
    """Where the cluster's own images lie: apart, so that `up` never waits for somebody's build."""
    return OciFolder(cache_folder() / "system-images")


def system_images(binaries: Path) -> list[str]:
    """Make the images that the cluster itself needs, once per build; returns their references."""
    specs = [
        ImageSpec(
            reference=BUSYBOX_IMAGE,
            files={"/bin/busybox": Path("/bin/busybox")},
            links={f"/bin/{applet}": "busybox" for applet in APPLETS},
            command=["/bin/sleep", "infinity"],
        ),
        ImageSpec(
            reference=COREDNS_IMAGE,
            files={"/bin/coredns": binaries / "coredns"},
            links={},
            command=["/bin/coredns"],
            user="0:0",  # port 53
        ),
        ImageSpec(
            reference=PROVISIONER_IMAGE,
            files={"/bin/local-path-provisioner": binaries / "local-path-provisioner"},
            links={},
            command=["/bin/local-path-provisioner"],
        ),
    ]
    folder = system_folder()
    marker = folder.path / f"from-{binaries.resolve().name}"
    if not marker.exists():
        with locked(cache_folder() / "system-images.lock"):
            for spec in specs:
                folder.add(spec)
            folder.keep_only(lambda _: True)  # drops the blobs of earlier builds
            for stale in folder.path.glob("from-*"):
                stale.unlink()
            marker.touch()
    return [spec.reference for spec in specs]


def full_name(reference: str) -> str:
    """The name under which the kubelet looks: a registry host and a tag are always there."""
    first, slash, _ = reference.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    name = reference if has_host else f"docker.io/{reference if slash else 'library/' + reference}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def archive_or_reference(image: str) -> tuple[Path | None, str]:
    """Tell a file (OCI or Docker archive) from a reference, which is pushed to the image folder.

    Raises:
        ClusterError: It is neither.
    """
    if Path(image).is_file():
        return Path(image), ""
    from lora_cluster.image_build import export  # noqa: PLC0415 - the builder is needed here only

    reference = image if image_folder().find(image) else full_name(image)
    if image_folder().find(reference) is None and not export(reference):
        raise ClusterError(
            "NoSuchImage",
            f"{image!r} is neither a file nor an image that was built here; "
            "`build-image trainer` and `build-image operator` build ours.",
        )
    return None, reference
