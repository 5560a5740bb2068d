"""Building our two images with buildah, on a base made of Debian packages.

The key of an image is the content that goes into it; equal key, nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lora_cluster import packages
from lora_cluster.errors import ClusterError, last_lines
from lora_cluster.images import image_folder
from lora_cluster.layout import cache_folder, find_checkout
from lora_cluster.locks import locked
from lora_cluster.progress import say

SUITE = "bookworm"
BASE_PACKAGES = "python3,ca-certificates,libstdc++6"  # the last is for torch
# What torch.compile needs where it runs: Triton compiles a small C file against Python's headers.
MORE_PACKAGES = {"trainer": "gcc,libc6-dev,libpython3.11-dev"}
# What of Debian's files an image never reads.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/var/cache/apt/*")
CERTIFICATES = Path("/etc/ssl/certs")
SOURCES = {
    "trainer": ("Dockerfile.trainer", "requirements/trainer.txt", "api/lora_api", "trainer-image"),
    "operator": (
        "Dockerfile.operator",
        "requirements/operator.txt",
        "api/lora_api",
        "operator/lora_operator",
    ),
}


def build(kind: str) -> str:
    """Build the trainer's or the operator's image unless its content is unchanged.

    Returns:
        The reference whose tag is the content's key; `localhost/lora-<kind>:dev` is the same image.
    """
    checkout = find_checkout()
    packages.ensure(packages.FOR_IMAGES)
    base = _base_image(MORE_PACKAGES.get(kind))
    key = content_key([checkout / source for source in SOURCES[kind]], salt=base)
    reference = f"localhost/lora-{kind}:{key}"
    if image_folder().find(reference):
        say(f"{reference} is built already")
        return reference
    say(f"building {reference}")
    with locked(cache_folder() / "images.lock"):
        _buildah(
            "build",
            "--layers",
            "--build-arg",
            f"BASE_IMAGE={base}",
            *_mounts(),
            "--file",
            str(checkout / f"Dockerfile.{kind}"),
            "--tag",
            reference,
            str(checkout),
            log=f"image-{kind}.log",
        )
        say("writing its layers")
        if not export(reference):
            raise ClusterError("ExportFailed", f"buildah built {reference} but does not have it.")
        image_folder().keep_only(lambda name: _is_wanted(name, kind=kind, reference=reference))
        _forget_older(reference)
    return reference


def build_script(name: str, script: Path) -> str:
    """Build an image whose only program is a Python script, unless its content is unchanged.

    Args:
        name: Name of the image.
        script: Needs nothing but the standard library; becomes /trainer.py.

    Returns:
        The reference, whose tag is the content's key.
    """
    packages.ensure(packages.FOR_IMAGES)
    base = _base_image()
    reference = f"localhost/{name}:{content_key([script], salt=base)}"
    if image_folder().find(reference):
        return reference
    say(f"building {reference}")
    with locked(cache_folder() / "images.lock"), tempfile.TemporaryDirectory() as folder:
        shutil.copy(script, Path(folder) / "trainer.py")
        (Path(folder) / "Dockerfile").write_text(
            f"FROM {base}\nCOPY trainer.py /\nUSER 65532:65532\n"
            'ENTRYPOINT ["python3", "/trainer.py"]\n'
        )
        _buildah("build", "--tag", reference, folder, log=f"image-{name}.log")
        if not export(reference):
            raise ClusterError("ExportFailed", f"buildah built {reference} but does not have it.")
    return reference


def _is_wanted(name: str, *, kind: str, reference: str) -> bool:
    """Of our own images only the newest stays: a trainer's layers are gigabytes."""
    return name == reference or not name.startswith(f"localhost/lora-{kind}:")


def _forget_older(reference: str) -> None:
    """Give back the builder's disk space; steps that the newest image was made of stay cached."""
    _buildah("rm", "--all", log="image-prune.log")  # of builds that were killed; none runs now
    wanted = f"reference={reference.rpartition(':')[0]}"
    listing = subprocess.run(
        [*_base_command(), "images", "--filter", wanted, "--format", "{{.Name}}:{{.Tag}}"],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    old = [name for name in listing.stdout.split() if name != reference]
    if old:
        _buildah("rmi", *old, log="image-prune.log")
    _buildah("rmi", "--prune", log="image-prune.log")


def export(reference: str) -> bool:
    """Copy an image of buildah's to the image folder; False when there is none.

    Layers stay uncompressed: packing gigabytes to unpack them on the same machine takes minutes.
    Layers that the folder has are not copied again.
    """
    if not shutil.which("buildah") or not _has_image(reference):
        return False
    packages.ensure(packages.FOR_IMAGES)
    target = image_folder().path
    target.mkdir(parents=True, exist_ok=True)
    _logged(
        [
            "skopeo",
            "--insecure-policy",
            "--tmpdir",
            str(cache_folder()),
            "copy",
            "--dest-oci-accept-uncompressed-layers",
            f"containers-storage:[overlay@{_store()}/root+{_store()}/run]{reference}",
            f"oci:{target}:{reference}",
        ],
        log="image-export.log",
    )
    return True


def content_key(sources: list[Path], *, salt: str) -> str:
    """Names an image by the files and the base that make it."""
    digest = hashlib.sha256(salt.encode())
    for source in sources:
        files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
        for file in files:
            if "__pycache__" in file.parts or file.suffix in (".pyc", ".egg-info"):
                continue
            name = file.relative_to(source.parent)
            digest.update(f"{name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _base_image(more: str | None = None) -> str:
    """Debian with Python, as small as its package manager makes it.

    Args:
        more: Further packages, separated by commas.
    """
    included = f"{BASE_PACKAGES},{more}" if more else BASE_PACKAGES
    recipe = json.dumps([SUITE, included, EXCLUDED])
    reference = f"localhost/lora-base:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with locked(cache_folder() / "base.lock"):
        if _has_image(reference):
            return reference
        say(f"making the base image {reference} of Debian packages")
        work = cache_folder() / "base"
        work.mkdir(parents=True, exist_ok=True)
        excludes = [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED]
        _logged(
            [
                "mmdebstrap",
                "--variant=essential",
                "--mode=root",
                f"--include={included}",
                *excludes,
                SUITE,
                str(work / "root.tar"),
            ],
            log="image-base.log",
        )
        (work / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["/bin/sh"]\n')
        _buildah("build", "--tag", reference, str(work), log="image-base.log")
        (work / "root.tar").unlink()
    return reference


def _mounts() -> list[str]:
    """What a build may read of this machine: certificates, uv and its download cache."""
    uv = Path(sys.executable).parent / "uv"
    uv_cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    uv_cache.mkdir(parents=True, exist_ok=True)
    mounts = [f"{CERTIFICATES}:{CERTIFICATES}:ro", f"{uv_cache}:/uv-cache:rw"]
    if uv.exists():
        mounts.append(f"{uv.resolve()}:/usr/local/bin/uv:ro")
    return [word for mount in mounts for word in ("--volume", mount)]


def _has_image(reference: str) -> bool:
    result = subprocess.run(
        [*_base_command(), "inspect", "--type", "image", reference],
        capture_output=True,
        check=False,
        env=_environment(),
    )
    return result.returncode == 0


def _base_command() -> list[str]:
    store = _store()
    return ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run")]


def _store() -> Path:
    return cache_folder() / "buildah"


def _environment() -> dict[str, str]:
    return {**os.environ, "BUILDAH_ISOLATION": "chroot", "BUILDAH_FORMAT": "oci"}


def _buildah(*argv: str, log: str) -> None:
    _logged([*_base_command(), *argv], log=log)


def _logged(argv: list[str], *, log: str) -> None:
    path = cache_folder() / log
    with path.open("wb") as output:
        result = subprocess.run(
            ["nice", "-n", "5", *argv],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            check=False,
        )
    if result.returncode:
        raise ClusterError(
            "ImageBuildFailed", f"`{argv[0]}` failed; the end of {path}:\n{last_lines(path)}"
        )
