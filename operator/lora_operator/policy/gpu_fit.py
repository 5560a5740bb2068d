"""How large a GPU a run needs, and what the cluster's nodes tell of theirs.

A module of its own because the scheduler knows how many GPUs a node has, and nothing of how large
they are: without this a run is placed on any GPU and fails there for lack of memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from lora_api.base import memory_bytes
from lora_api.gpu_memory import gpu_memory_mib
from lora_api.policy import GpuSettings
from lora_api.recipes import RECIPES
from lora_api.settings import MemoryStrategy
from lora_api.training import LoRATrainingSpec

Labels = Mapping[str, str]
NVIDIA = "nvidia.com/gpu"
UNSET = GpuSettings()
NAMED_GPUS = 8
_MIB = 1 << 20
# Kubernetes allows no more after the slash of a label.
_LABEL_NAME_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNames:
    """How GPUs are called in the cluster."""

    resource: str = NVIDIA
    """Resource that pods ask for."""
    memory: str | None = f"{NVIDIA}.memory"
    """Node label with the memory of one GPU in MiB; None where there can't be one."""
    product: str = f"{NVIDIA}.product"
    """Node label with their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNeed:
    """Memory that a run needs on each GPU, in MiB.

    Attributes:
        least: Without this it can't be trained.
        ample: With this it is trained without what costs precision; at least `least`.
        what: What needs it, for the sentence: `flux at 1024 pixels`.
    """

    least: int
    ample: int
    what: str


def gpu_names(policy: GpuSettings | None, default: GpuSettings) -> GpuNames:
    """How GPUs are called for one namespace.

    NVIDIA's GPU feature discovery names labels after resources, MIG's among them (`mig.strategy:
    mixed`): nvidia.com/mig-3g.40gb has nvidia.com/mig-3g.40gb.memory. That is the rule for any
    resource unless a setting names a label.

    Args:
        policy: The namespace's, if it has one.
        default: The operator's. Its labels are of its own resource, and say nothing of another.
    """
    given = policy or UNSET
    if given.resource_name in {None, default.resource_name}:
        memory = given.memory_label or default.memory_label
        product = given.product_label or default.product_label
    else:
        memory, product = given.memory_label, given.product_label
    resource = given.resource_name or default.resource_name or NVIDIA
    derived = f"{resource}.memory"
    is_label = len(derived.partition("/")[2]) <= _LABEL_NAME_LENGTH
    return GpuNames(
        resource=resource,
        memory=memory or (derived if is_label else None),
        product=product or f"{resource}.product",
    )


def gpu_need(spec: LoRATrainingSpec) -> GpuNeed | None:
    """What a run needs; None where nothing can be demanded (no GPU, a recipe without figures).

    `optimization.memory: auto` needs what its leanest rung needs, because a run must not wait for a
    GPU that it could do without; a GPU on which nothing has to be quantised is ample.
    """
    if not spec.resources.gpus or spec.recipe not in RECIPES:
        return None
    given = spec.resources.gpu_memory
    if given is not None:
        mib = ceil(memory_bytes(given) / _MIB)
        return GpuNeed(least=mib, ample=mib, what="spec.resources.gpuMemory asks for")
    wanted = spec.optimization.memory
    is_auto = wanted is MemoryStrategy.AUTO
    resolution = spec.optimization.resolution or RECIPES[spec.recipe].resolution
    return GpuNeed(
        least=_estimate(spec, MemoryStrategy.NF4 if is_auto else wanted),
        ample=_estimate(spec, MemoryStrategy.CHECKPOINTING if is_auto else wanted),
        what=f"{spec.recipe} at {resolution} pixels needs",
    )


def misfit(need: GpuNeed, nodes: Sequence[Labels], names: GpuNames) -> str | None:
    """Why no node fits, in a sentence for its user.

    Args:
        need: Of the run.
        nodes: Labels of the cluster's nodes.
        names: How labels are called.

    Returns:
        None where one fits, or where nodes say nothing of their GPUs' memory.
    """
    known = [labels for labels in nodes if _memory(labels, names) is not None]
    if not known or any((_memory(labels, names) or 0) >= need.least for labels in known):
        return None
    return (
        f"No GPU of the labelled nodes has the {need.least} MiB of memory that {need.what}. They "
        f"are: {_inventory(known, names)}. Add a node with such a GPU, or create the run again "
        "with a lower resolution or batch size, or a leaner optimization.memory."
    )


def _estimate(spec: LoRATrainingSpec, strategy: MemoryStrategy) -> int:
    return gpu_memory_mib(
        spec.recipe,
        dataset=spec.dataset,
        network=spec.network,
        optimization=spec.optimization.model_copy(update={"memory": strategy}),
    )


def _memory(labels: Labels, names: GpuNames) -> int | None:
    text = labels.get(names.memory, "") if names.memory is not None else ""
    return int(text) if text.isascii() and text.isdigit() else None


def _inventory(nodes: Sequence[Labels], names: GpuNames) -> str:
    kinds = Counter(
        (labels.get(names.product, "a GPU without a name"), _memory(labels, names))
        for labels in nodes
    )
    listed = [
        f"{product} ({memory} MiB) on {count} node{'' if count == 1 else 's'}"
        for (product, memory), count in sorted(kinds.items(), key=lambda kind: str(kind[0]))
    ]
    rest = len(listed) - NAMED_GPUS
    return ", ".join(listed[:NAMED_GPUS]) + (f" and {rest} more kinds" if rest > 0 else "")
