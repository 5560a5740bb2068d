"""The workspace: a claim that survives the pod, or a folder of the node that does not.

A module of its own because claim and volume have to agree on which of the two it is.
"""

from typing import Any

from lora_api.training import LoRATrainingSpec, WorkspaceType
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


def workspace_volume(run: Run, spec: LoRATrainingSpec) -> dict[str, Any]:
    """The source of the pod's workspace volume."""
    if spec.workspace.type is WorkspaceType.EPHEMERAL:
        return {"emptyDir": {"sizeLimit": spec.workspace.size}}
    return {"persistentVolumeClaim": {"claimName": workspace_name(run.key.name)}}
