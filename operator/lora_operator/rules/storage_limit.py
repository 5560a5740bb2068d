"""A pod that its node evicted because it wrote more than a size limit of its own allows.

A module of its own because it looks like an eviction that takes a pod away for somebody else's
sake, and is the contrary: every further attempt would write as much, and end the same way.
"""

import re

from lora_api.reasons import Reason
from lora_api.status import FailureStatus
from lora_api.training import WorkspaceType
from lora_operator.builders.job import TMP_SIZE
from lora_operator.state.text import clip, quote, twice
from lora_operator.state.views import Observed, Pod

# Kubernetes' pkg/kubelet/eviction: of the evictions only those for a limit of the pod's own set no
# condition DisruptionTarget (localStorageEviction, as of 1.35). A pod that its node never let in
# has the same reason, but no container.
EVICTED = "Evicted"
_VOLUME = re.compile(r'EmptyDir volume "([^"]{1,63})"')


def is_over_storage_limit(pod: Pod) -> bool:
    """Whether the pod was ended for what it wrote itself, whatever its trainer answered."""
    has_run = pod.container.exit_code is not None
    return pod.reason == EVICTED and pod.disrupted is None and has_run


def explain_storage_limit(seen: Observed, pod: Pod) -> FailureStatus:
    """Which limit it was, and what would do."""
    volume = _VOLUME.search(pod.message)
    name = volume[1] if volume is not None else ""
    words = {"workspace": _workspace(seen), "tmp": _tmp()}.get(name) or _other(seen)
    return FailureStatus(
        reason=Reason.STORAGE_LIMIT_EXCEEDED,
        message=clip(f"Pod {pod.name} was evicted by its node ({quote(pod.message)}). {words}"),
        retryable=False,
        exit_code=pod.container.exit_code,
    )


def _workspace(seen: Observed) -> str:
    spec = seen.run.spec
    more = f" of {twice(spec.workspace.size)}" if spec is not None else ""
    return (
        "Another attempt would write as much, so none is made. Create the run again with a larger "
        f"spec.workspace.size (twice as much{more} mostly does), fewer checkpoints kept "
        "(spec.checkpoints.keep), or fewer or smaller pictures."
    )


def _tmp() -> str:
    return (
        f"The limit of {TMP_SIZE} for /tmp is the operator's and no field raises it: what an own "
        "spec.image writes there has to go under /workspace (spec.workspace.size); of the "
        "operator's own image it is a fault to report. No other attempt is made."
    )


def _other(seen: Observed) -> str:
    spec = seen.run.spec
    is_in_pod = spec is not None and spec.workspace.type is WorkspaceType.EPHEMERAL
    size = f"{spec.workspace.size} (spec.workspace.size) and " if spec and is_in_pod else ""
    return (
        "The operator sets no such limit: see whether a LimitRange of the namespace has one for "
        f"ephemeral-storage. It has to leave room for {size}{TMP_SIZE} of /tmp and the log. No "
        "other attempt is made."
    )
