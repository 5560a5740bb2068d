"""The workspace claim: where checkpoints, caches and the unsent result survive a pod.

A module of its own because other kinds of workspace will stand beside it.
"""

from typing import Any

from lora_api.training import LoRATrainingSpec
from lora_operator.builders.ownership import metadata
from lora_operator.labels import workspace_name
from lora_operator.state.views import Run


def build_workspace(run: Run, spec: LoRATrainingSpec) -> dict[str, Any]:
    """The run's PersistentVolumeClaim."""
    workspace = spec.workspace
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": workspace.size}},
    }
    if workspace.storage_class_name is not None:
        claim["storageClassName"] = workspace.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(run, workspace_name(run.key.name)),
        "spec": claim,
    }
