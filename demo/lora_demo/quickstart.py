"""The quickstart's run, from its YAML and pictures to the finished contact sheet.

A module of its own because it is the demonstration proper: the steps that a reader would take by
hand, in the same order.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from minio import Minio
from rich.console import Console

from lora_api.status import ArtifactStatus, LoRATrainingStatus, Phase
from lora_demo import storage as store
from lora_demo.environment import DemoError, Environment, run
from lora_demo.install import ROOT
from lora_demo.watch import follow

QUICKSTART = ROOT / "examples/quickstart"
BASE_MODEL = ROOT / "examples/small-base/model"
RESULTS = ROOT / "build/demo"


def run_quickstart(environment: Environment, console: Console) -> Path:
    """Uploads data, applies the YAML, follows the run and fetches its result.

    Returns:
        Path of the contact sheet.

    Raises:
        DemoError: The run failed, or what it stored is not what its status says.
    """
    training = yaml.safe_load((QUICKSTART / "loratraining.yaml").read_text(encoding="utf-8"))
    namespace, name = training["metadata"]["namespace"], training["metadata"]["name"]
    objects = store.connect(environment)
    console.rule("data")
    _remove_previous(environment, objects, console, training)
    _upload(objects, console, training)
    _prepare_namespace(environment, namespace, training["spec"]["credentialsSecretName"])
    console.rule("training")
    run(environment, "kubectl", "apply", "-f", str(QUICKSTART / "loratraining.yaml"))
    console.print(f"  applied examples/quickstart/loratraining.yaml as {namespace}/{name}")
    status = follow(environment, console, namespace=namespace, name=name)
    if status.phase is not Phase.COMPLETED or status.artifact is None:
        raise DemoError(f"the run ended as {status.phase}: {status.message}")
    sheet = _fetch(objects, status.artifact)
    console.rule("result")
    table = run(environment, "kubectl", "get", "loratrainings", "--namespace", namespace)
    console.print(table, highlight=False, markup=False, soft_wrap=True)
    _print_result(console, status, status.artifact)
    return sheet


def _remove_previous(
    environment: Environment, objects: Minio, console: Console, training: dict[str, Any]
) -> None:
    """A model is never overwritten by another run, so an earlier demonstration has to go first."""
    metadata = training["metadata"]
    run(environment, "kubectl", "delete", "loratraining", metadata["name"],
        "--namespace", metadata["namespace"], "--ignore-not-found", "--wait")  # fmt: skip
    store.make_buckets(objects)
    output = training["spec"]["output"]["uri"]
    if removed := store.remove_prefix(objects, output):
        console.print(f"  removed an earlier result: {removed} objects under {output}")


def _upload(objects: Minio, console: Console, training: dict[str, Any]) -> None:
    spec = training["spec"]
    for folder, uri in (
        (BASE_MODEL, spec["baseModel"]["uri"]),
        (QUICKSTART / "dataset", spec["dataset"]["uri"]),
    ):
        count = store.upload_folder(objects, folder, uri)
        console.print(f"  {folder.relative_to(ROOT)}: {count} files at {uri}")


def _prepare_namespace(environment: Environment, namespace: str, secret: str) -> None:
    manifests = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": namespace,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret, "namespace": namespace},
            "stringData": {
                "AWS_ACCESS_KEY_ID": environment.access_key,
                "AWS_SECRET_ACCESS_KEY": environment.secret_key,
                "AWS_ENDPOINT_URL": environment.s3_cluster_endpoint,
                "AWS_REGION": "us-east-1",
            },
        },
    ]
    for manifest in manifests:
        run(environment, "kubectl", "apply", "-f", "-", stdin=json.dumps(manifest))


def _fetch(objects: Minio, artifact: ArtifactStatus) -> Path:
    """Downloads what the run stored and holds the LoRA against the digest in its status."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    digest = store.download(objects, artifact.uri, RESULTS / "model.safetensors")
    if digest != artifact.digest:
        raise DemoError(f"{artifact.uri} has digest {digest}, its status says {artifact.digest}")
    if artifact.contact_sheet_uri is None or artifact.report_uri is None:
        raise DemoError("the run stored no contact sheet or report")
    store.download(objects, artifact.report_uri, RESULTS / "report.json")
    sheet = RESULTS / "contact-sheet.png"
    store.download(objects, artifact.contact_sheet_uri, sheet)
    return sheet


def _print_result(console: Console, status: LoRATrainingStatus, artifact: ArtifactStatus) -> None:
    lines = [
        ("LoRA", f"{artifact.uri} ({artifact.size_bytes:,} bytes, {artifact.format} keys)"),
        ("digest", f"{artifact.digest} (checked on the downloaded file)"),
    ]
    measured = status.validation
    if measured and measured.base_loss is not None and measured.lora_loss is not None:
        lines.append(
            ("held-out loss", f"{measured.base_loss:.4f} base, {measured.lora_loss:.4f} with LoRA")
        )
    lines += [
        ("report", str(RESULTS / "report.json")),
        ("contact sheet", str(RESULTS / "contact-sheet.png")),
    ]
    for label, text in lines:
        console.print(f"  {label:<14} {text}", highlight=False, markup=False, soft_wrap=True)
