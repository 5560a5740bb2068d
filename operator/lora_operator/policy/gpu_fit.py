"""Which nodes have a GPU with enough memory, by the labels that GPU operators put on them.

A module of its own because the scheduler knows how many GPUs a node has, and nothing of how large
they are: without this a run is placed on any GPU and fails there for lack of memory.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Labels = Mapping[str, str]
NAMED_GPUS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLabels:
    """Node labels that tell of GPUs; NVIDIA's by default."""

    memory: str = "nvidia.com/gpu.memory"
    """Memory of one GPU, in MiB."""
    product: str = "nvidia.com/gpu.product"
    """Its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFit:
    """Where a run can go.

    Attributes:
        node_affinity: For the pod's `affinity.nodeAffinity`; None where nodes say nothing of their
            GPUs, so nothing can be demanded of them.
        misfit: Why no node fits, for a condition; None where one does.
    """

    node_affinity: dict[str, Any] | None = None
    misfit: str | None = None


def fit_gpus(*, needed_mib: int, what: str, nodes: Sequence[Labels], gpu: GpuLabels) -> GpuFit:
    """Nodes for a run, by the memory of one GPU.

    Args:
        needed_mib: Memory that the run needs on each GPU, in MiB.
        what: What needs it, for the sentence: `flux at 1024 pixels`.
        nodes: Labels of the cluster's nodes.
        gpu: How labels are called.
    """
    known = [labels for labels in nodes if _memory(labels, gpu) is not None]
    if not known:
        return GpuFit()
    if not any((_memory(labels, gpu) or 0) >= needed_mib for labels in known):
        return GpuFit(
            misfit=(
                f"No GPU of the cluster has the {needed_mib} MiB of memory that {what} needs. "
                f"There are: {_inventory(known, gpu)}. Add a node with such a GPU, or create the "
                "run again with a lower resolution or a leaner optimization.memory."
            )
        )
    larger_than = {"key": gpu.memory, "operator": "Gt", "values": [str(needed_mib - 1)]}
    return GpuFit(
        node_affinity={
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [larger_than]}]
            }
        }
    )


def _memory(labels: Labels, gpu: GpuLabels) -> int | None:
    text = labels.get(gpu.memory, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _inventory(nodes: Sequence[Labels], gpu: GpuLabels) -> str:
    kinds = Counter(
        (labels.get(gpu.product, "a GPU without a name"), _memory(labels, gpu)) for labels in nodes
    )
    listed = [
        f"{product} ({memory} MiB) on {count} node{'' if count == 1 else 's'}"
        for (product, memory), count in sorted(kinds.items(), key=lambda kind: str(kind[0]))
    ]
    rest = len(listed) - NAMED_GPUS
    return ", ".join(listed[:NAMED_GPUS]) + (f" and {rest} more kinds" if rest > 0 else "")
