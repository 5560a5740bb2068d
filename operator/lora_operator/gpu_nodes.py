"""The labels by which nodes tell of their GPUs, read where a pod finds no node.

A module of its own because reading nodes is a right that an operator of single namespaces has not,
and a cost that only an explanation is worth: pods find large enough GPUs without it.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from lora_api.policy import GpuSettings
from lora_operator.errors import ApiError, RefusedError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import NODES
from lora_operator.logs import log
from lora_operator.policy.gpu_fit import Labels, gpu_names, gpu_need, misfit
from lora_operator.shared_read import SharedRead
from lora_operator.state.views import Observed

# As often as a run that waits is looked at again.
FRESH_SECONDS = 30.0


class GpuNodes:
    """Says which GPUs the cluster has, where none of them is large enough."""

    def __init__(
        self,
        client: KubeClient,
        *,
        gpu: GpuSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read by a client.

        Args:
            client: Any.
            gpu: How GPUs are called where no policy says so.
            clock: Monotonic seconds.
        """
        self._client = client
        self._gpu = gpu
        self._clock = clock
        self._known: dict[str, tuple[float, tuple[Labels, ...]]] = {}
        self._read = SharedRead(self._list)

    async def explain(self, seen: Observed) -> Observed:
        """What is seen, with why no GPU is large enough where the pod finds no node for that."""
        spec, pod = seen.run.spec, seen.latest_pod
        if spec is None or pod is None or pod.node is not None or pod.unschedulable is None:
            return seen
        policy = seen.policy.policy if seen.policy is not None else None
        names = gpu_names(policy.gpu if policy is not None else None, self._gpu)
        need = gpu_need(spec)
        if need is None or names.memory is None:
            return seen
        return replace(seen, gpu_misfit=misfit(need, await self._labelled(names.memory), names))

    async def _labelled(self, label: str) -> tuple[Labels, ...]:
        known = self._known.get(label)
        if known is None or self._clock() - known[0] >= FRESH_SECONDS:
            await self._read(label)
        return self._known[label][1]

    async def _list(self, label: str) -> None:
        """Labels of all nodes that have this one."""
        found: list[Labels] = []
        try:
            async for node in self._client.list_metadata(NODES, None, label_selector=label):
                found.append(node["metadata"].get("labels", {}))
        except RefusedError:
            # Only an explanation, and where nodes may not be read nobody has it.
            found = []
        except ApiError as error:
            # What was true half a minute ago explains more than nothing.
            log("nodes not listed", level=logging.WARNING, label=label, message=error.message)
            found = list(self._known[label][1]) if label in self._known else []
        self._known[label] = (self._clock(), tuple(found))
