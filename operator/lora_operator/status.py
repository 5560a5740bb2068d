"""The one status write of a reconcile, and the events that follow it.

A module of its own because it is where the promise "written only when something changed, and never
over somebody else's newer state" is kept.
"""

import hashlib
from datetime import datetime
from typing import Any

from lora_api import API_VERSION
from lora_api.status import LoRATrainingStatus
from lora_api.training import KIND
from lora_operator.errors import AlreadyExistsError, RefusedError
from lora_operator.kube.client import KubeClient, Object
from lora_operator.kube.resources import EVENTS, TRAININGS
from lora_operator.state.decision import Event
from lora_operator.state.views import Run


class StatusWriter:
    """Writes statuses and events."""

    def __init__(self, *, client: KubeClient, identity: str) -> None:
        """Use a guarded client; `identity` names this replica in events."""
        self._client = client
        self._identity = identity

    async def write(self, run: Run, new: LoRATrainingStatus) -> Object:
        """Patch what differs, if the run is still the one that was read.

        Returns:
            The run as stored afterwards.

        Raises:
            ConflictError: The run changed since it was read.
        """
        patch = {
            "metadata": {"uid": run.uid, "resourceVersion": run.resource_version},
            "status": merge_patch(_dump(run.status), _dump(new)),
        }
        return await self._client.patch_status(TRAININGS, run.key.namespace, run.key.name, patch)

    async def tell(self, run: Run, events: tuple[Event, ...], now: datetime) -> None:
        """Post events; one that can't be posted is not worth failing for."""
        for event in events:
            try:
                await self._client.create(
                    EVENTS, run.key.namespace, build_event(run, event, now, self._identity)
                )
            except (AlreadyExistsError, RefusedError):
                continue


def merge_patch(old: Object, new: Object) -> Object:
    """RFC 7386 patch that turns `old` into `new`; fields that neither knows stay as they are."""
    patch: dict[str, Any] = {}
    for name in old.keys() - new.keys():
        patch[name] = None
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = merge_patch(before, value)
            if inner:
                patch[name] = inner
        elif before != value or name not in old:
            patch[name] = value
    return patch


def _dump(status: LoRATrainingStatus) -> Object:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def build_event(run: Run, event: Event, now: datetime, identity: str) -> Object:
    """A core/v1 Event whose name follows from what it tells, so a repeat finds itself there."""
    told = f"{run.uid} {event.reason} {event.message} {now:%Y-%m-%dT%H}"
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{run.key.name}.{digest}", "namespace": run.key.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": run.key.namespace,
            "name": run.key.name,
            "uid": run.uid,
            "resourceVersion": run.resource_version,
        },
        "type": event.kind,
        "reason": event.reason,
        "message": event.message,
        "source": {"component": "lora-operator", "host": identity},
        "reportingComponent": "loratraining.dev/operator",
        "reportingInstance": identity[:128],
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
