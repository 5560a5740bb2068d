"""Where the pods of a namespace go, as its policy says; runs have no word in it.

A module of its own because it holds for every Job that is built, whatever the Job is for.
"""

import copy
from typing import Any

from lora_api.policy import TolerationSettings, TrainingPolicySpec
from lora_operator.builders.job import GPU_RESOURCE


def placed(job: dict[str, Any], policy: TrainingPolicySpec) -> dict[str, Any]:
    """The Job with the policy's node labels, tolerations and name for GPUs."""
    job = copy.deepcopy(job)
    pod = job["spec"]["template"]["spec"]
    gpu, defaults = policy.gpu.resource_name, policy.defaults
    for container in pod["containers"]:
        for amounts in container["resources"].values():
            if GPU_RESOURCE in amounts:
                amounts[gpu] = amounts.pop(GPU_RESOURCE)
    tolerations = [
        {**each, "key": gpu} if each["key"] == GPU_RESOURCE else each
        for each in pod.get("tolerations", [])
    ] + [_toleration(each) for each in defaults.tolerations]
    if tolerations:
        pod["tolerations"] = tolerations
    if defaults.node_selector:
        pod["nodeSelector"] = {label.key: label.value for label in defaults.node_selector}
    return job


def _toleration(given: TolerationSettings) -> dict[str, Any]:
    common = {"key": given.key, "effect": given.effect}
    if given.value is None:
        return {**common, "operator": "Exists"}
    return {**common, "operator": "Equal", "value": given.value}
