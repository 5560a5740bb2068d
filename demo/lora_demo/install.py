"""Brings the operator into the local cluster: cluster, images, chart.

A module of its own because the end-to-end tests start from the same place as the demonstration.
"""

from pathlib import Path

from rich.console import Console

from lora_demo.environment import Environment, cluster, cluster_together, read_environment, run

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/lora-operator"
OPERATOR_NAMESPACE = "lora-system"
RELEASE = "lora-operator"
WAIT = "120s"


def install(console: Console) -> Environment:
    """Starts the cluster, loads both images and installs or upgrades the chart.

    Returns:
        How to reach the cluster.

    Raises:
        DemoError: A step failed; its text says which and what to do.
    """
    console.rule("cluster and images")
    # Compiling Kubernetes keeps the processor busy, building images the network and the disk.
    kinds = ("operator", "trainer")
    commands = [("up",), *(("build-image", kind) for kind in kinds)]
    _, *built = cluster_together(*commands)
    images = {kind: said.split()[-1] for kind, said in zip(kinds, built, strict=True)}
    for reference in images.values():
        cluster("load-image", reference)
    environment = read_environment()
    console.rule("operator")
    _apply_crds(environment)
    repository, _, tag = images["operator"].rpartition(":")
    run(environment, "helm", "upgrade", "--install", RELEASE, str(CHART),
        "--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--skip-crds",
        "--set", f"image.repository={repository}", "--set", f"image.tag={tag}",
        "--set", f"trainerImage={images['trainer']}",
        "--wait", "--timeout", WAIT)  # fmt: skip
    run(environment, "kubectl", "label", "namespace", OPERATOR_NAMESPACE, "--overwrite",
        "pod-security.kubernetes.io/enforce=restricted")  # fmt: skip
    console.print("  the operator is ready")
    return environment


def _apply_crds(environment: Environment) -> None:
    """Helm installs CRDs but never upgrades them, so they are applied beside it."""
    run(environment, "kubectl", "apply", "--server-side", "--force-conflicts",
        "-f", str(CHART / "crds"))  # fmt: skip
    run(environment, "kubectl", "wait", "--for=condition=Established", "--timeout=30s",
        "-f", str(CHART / "crds"))  # fmt: skip
