"""The CustomResourceDefinition around the schema: names, printer columns, subresources.

A module of its own because these are choices about how the resource reads in kubectl, which no
pydantic model can express.
"""

from typing import Any

from lora_api import GROUP, VERSION
from lora_api.cel import EXTENSION
from lora_api.status import LoRATrainingStatus
from lora_api.training import KIND, NAME_FITS_CHILDREN, PLURAL, LoRATrainingSpec
from lora_crd.structural import structural_schema

DESCRIPTION = (
    "LoRATraining is one training of a LoRA, a small adapter of an image or video diffusion model: "
    "what to train, on what, and where the result goes."
)


def _column(
    name: str, path: str, kind: str, description: str, *, wide: bool = False
) -> dict[str, str | int]:
    column: dict[str, str | int] = {
        "name": name,
        "type": kind,
        "jsonPath": path,
        "description": description,
    }
    return {**column, "priority": 1} if wide else column


COLUMNS = [
    _column("Phase", ".status.phase", "string", "Where the run stands."),
    _column("%", ".status.progress.percent", "integer", "Share of the steps that is done."),
    _column("Step", ".status.progress.step", "integer", "Optimiser steps done."),
    _column("Loss", ".status.progress.loss", "number", "Smoothed training loss."),
    _column("ETA", ".status.progress.eta", "string", "Time until the last step."),
    _column("GPU", ".spec.resources.gpus", "integer", "GPUs asked for."),
    _column("Age", ".metadata.creationTimestamp", "date", "Time since it was created."),
    _column("Recipe", ".spec.recipe", "string", "Model family.", wide=True),
    _column("Steps", ".status.progress.totalSteps", "integer", "Steps in all.", wide=True),
    _column("Stage", ".status.progress.stage", "string", "What the trainer does.", wide=True),
    _column("Attempts", ".status.attempts", "integer", "Pods started.", wide=True),
    _column("Node", ".status.nodeName", "string", "Node of the latest pod.", wide=True),
    _column("User", ".spec.user", "string", "On whose behalf.", wide=True),
    _column("Message", ".status.message", "string", "Why it waits or how it ended.", wide=True),
]


def custom_resource_definition() -> dict[str, Any]:
    """The CRD of LoRATraining as a Kubernetes object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["lt"],
                "categories": ["all", "lora"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root_schema()},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": COLUMNS,
                    "selectableFields": [
                        {"jsonPath": ".spec.recipe"},
                        {"jsonPath": ".status.phase"},
                    ],
                }
            ],
        },
    }


def _root_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": DESCRIPTION,
        "required": ["spec"],
        EXTENSION: [NAME_FITS_CHILDREN.to_schema()],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(LoRATrainingSpec),
            "status": structural_schema(LoRATrainingStatus),
        },
    }
