"""Where the pods of a run go: to nodes of its namespace's policy, with GPUs that are large enough.

A module of its own because it holds for every Job that is built, whatever the Job is for, and runs
have no word in it.
"""

import copy
from typing import Any

from lora_api.policy import DefaultSettings, TolerationSettings, TrainingPolicySpec
from lora_operator.builders.job import GPU_RESOURCE
from lora_operator.policy.gpu_fit import GpuNames, GpuNeed


def placed(
    job: dict[str, Any],
    *,
    policy: TrainingPolicySpec | None,
    gpu: GpuNames,
    need: GpuNeed | None,
) -> dict[str, Any]:
    """The Job with the cluster's name for GPUs, and with what is asked of nodes.

    Args:
        job: As built for NVIDIA's GPUs anywhere.
        policy: Of the namespace, if it has one: its node labels and tolerations are added.
        gpu: How GPUs and their labels are called.
        need: GPU memory that nodes must have; None demands nothing.
    """
    job = copy.deepcopy(job)
    pod = job["spec"]["template"]["spec"]
    for container in pod["containers"]:
        for amounts in container["resources"].values():
            if GPU_RESOURCE in amounts:
                amounts[gpu.resource] = amounts.pop(GPU_RESOURCE)
    defaults = policy.defaults if policy is not None else DefaultSettings()
    tolerations = [
        *_renamed(pod.get("tolerations", []), gpu.resource),
        *(_toleration(each) for each in defaults.tolerations),
    ]
    if tolerations:
        pod["tolerations"] = tolerations
    if defaults.node_selector:
        pod["nodeSelector"] = {label.key: label.value for label in defaults.node_selector}
    if need is not None and gpu.memory is not None:
        pod["affinity"] = {"nodeAffinity": _large_enough(need, gpu.memory)}
    return job


def _renamed(tolerations: list[dict[str, Any]], gpu: str) -> list[dict[str, Any]]:
    """Nodes are tainted by the name of their GPUs; NVIDIA's also where they offer parts of them."""
    vendor = GPU_RESOURCE.partition("/")[0]
    keys = [gpu] if gpu == GPU_RESOURCE or gpu.partition("/")[0] != vendor else [GPU_RESOURCE, gpu]
    return [
        {**each, "key": key}
        for each in tolerations
        for key in (keys if each["key"] == GPU_RESOURCE else [each["key"]])
    ]


def _large_enough(need: GpuNeed, label: str) -> dict[str, Any]:
    """Nodes whose GPUs are large enough, and nodes that don't say how large theirs are.

    Stated for any node there will ever be and not for those of this moment, so nobody has to read
    nodes for it, and the scheduler (or an autoscaler) ends the wait for one.
    """
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [_at_least(need.least, label)]},
                {"matchExpressions": [{"key": label, "operator": "DoesNotExist"}]},
            ]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchExpressions": [_at_least(need.ample, label)]}}
        ],
    }


def _at_least(mib: int, label: str) -> dict[str, Any]:
    return {"key": label, "operator": "Gt", "values": [str(mib - 1)]}


def _toleration(given: TolerationSettings) -> dict[str, Any]:
    common = {"key": given.key, "effect": given.effect}
    if given.value is None:
        return {**common, "operator": "Exists"}
    return {**common, "operator": "Equal", "value": given.value}
