"""The CustomResourceDefinition of LoRATraining: names, printer columns, subresources.

A module of its own because these are choices about how the resource reads in kubectl, which no
pydantic model can express.
"""

from typing import Any

from lora_api.cel import EXTENSION
from lora_api.status import LoRATrainingStatus
from lora_api.training import KIND, NAME_FITS_CHILDREN, PLURAL, LoRATrainingSpec
from lora_crd.resource import column, definition, names, root
from lora_crd.structural import structural_schema

DESCRIPTION = (
    "LoRATraining is one training of a LoRA, a small adapter of an image or video diffusion model: "
    "what to train, on what, and where the result goes."
)


COLUMNS = [
    column("Phase", ".status.phase", "string", "Where the run stands."),
    column("%", ".status.progress.percent", "integer", "Share of the steps that is done."),
    column("Step", ".status.progress.step", "integer", "Optimiser steps done."),
    column("Loss", ".status.progress.loss", "number", "Smoothed training loss."),
    column("ETA", ".status.progress.eta", "string", "Time until the last step."),
    column("GPU", ".spec.resources.gpus", "integer", "GPUs asked for."),
    column("Age", ".metadata.creationTimestamp", "date", "Time since it was created."),
    column("Recipe", ".spec.recipe", "string", "Model family.", wide=True),
    column("Steps", ".status.progress.totalSteps", "integer", "Steps in all.", wide=True),
    column("Stage", ".status.progress.stage", "string", "What the trainer does.", wide=True),
    column("Attempts", ".status.attempts", "integer", "Pods started.", wide=True),
    column("GPU-s", ".status.gpuSeconds", "integer", "GPUs times seconds held.", wide=True),
    column("Node", ".status.nodeName", "string", "Node of the latest pod.", wide=True),
    column("User", ".spec.user", "string", "On whose behalf.", wide=True),
    column("Message", ".status.message", "string", "Why it waits or how it ended.", wide=True),
]


def custom_resource_definition() -> dict[str, Any]:
    """The CRD of LoRATraining as a Kubernetes object."""
    return definition(
        naming=names(KIND, PLURAL, "lt", categories=("all", "lora")),
        root=_root_schema(),
        subresources={"status": {}},
        additionalPrinterColumns=COLUMNS,
        selectableFields=[{"jsonPath": ".spec.recipe"}, {"jsonPath": ".status.phase"}],
    )


def _root_schema() -> dict[str, Any]:
    whole = root(
        DESCRIPTION,
        spec=structural_schema(LoRATrainingSpec),
        status=structural_schema(LoRATrainingStatus),
    )
    whole[EXTENSION] = [NAME_FITS_CHILDREN.to_schema()]
    return whole
