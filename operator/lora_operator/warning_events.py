"""Warnings that the cluster has put on record, read once for all who wait in a namespace.

A module of its own because Events are the API server's dearest list: it keeps them in no cache, and
goes through all of a namespace to find those about one object. A thousand runs that waited for
their pods, each asking for itself, kept it busy with little else.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from lora_operator.errors import ApiError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import EVENTS
from lora_operator.shared_read import SharedRead
from lora_operator.state.keys import Object
from lora_operator.state.reading import read_time
from lora_operator.state.text import quote

# What kept a pod from a node says nothing about why its node does not start it, and the pod's own
# condition says it, too.
SELECTOR = "type=Warning,reason!=FailedScheduling"
GOOD_FOR_SECONDS = 2.0
# A namespace in which nothing has waited for so long is forgotten.
FORGET_AFTER_SECONDS = 60.0
# Far more than there are runs in a namespace; what lies behind is not worth the memory.
MAX_EVENTS = 10_000


class Warned(NamedTuple):
    """The latest warning about an object."""

    at: datetime
    message: str


@dataclass
class _Read:
    at: float
    latest: dict[str, Warned] = field(default_factory=dict)


class WarningEvents:
    """The latest warning about each object, by its uid, at most two seconds old."""

    def __init__(self, client: KubeClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read through `client`.

        Args:
            client: Any.
            clock: Seconds that only grow.
        """
        self._client = client
        self._clock = clock
        self._read = SharedRead(self._fetch)
        self._known: defaultdict[str, _Read] = defaultdict(lambda: _Read(at=float("-inf")))

    async def latest(self, namespace: str, uid: str) -> Warned | None:
        """The latest warning about an object, or None: also where the API server won't say.

        By uid, because events outlive their object by an hour, and an earlier run's had the same
        name.
        """
        if self._clock() - self._known[namespace].at >= GOOD_FOR_SECONDS:
            try:
                await self._read(namespace)
            except ApiError:
                # Only an explanation: what is decided must not wait for it.
                return None
        return self._known[namespace].latest.get(uid)

    async def _fetch(self, namespace: str) -> None:
        read = _Read(at=self._clock())
        events = self._client.list_pages(
            EVENTS, namespace, params={"fieldSelector": SELECTOR}, most=MAX_EVENTS
        )
        async for event in events:
            uid, warned = event.get("involvedObject", {}).get("uid", ""), _warned(event)
            if warned is not None and (uid not in read.latest or read.latest[uid].at < warned.at):
                read.latest[uid] = warned
        self._known[namespace] = read
        for name in [n for n, r in self._known.items() if read.at - r.at > FORGET_AFTER_SECONDS]:
            del self._known[name]


def _warned(event: Object) -> Warned | None:
    """What an event says; None where that can't be read: whoever may create events writes it."""
    told = event.get("lastTimestamp") or event.get("eventTime")
    try:
        at = read_time(told or event["metadata"]["creationTimestamp"])
    except (ValueError, OverflowError):
        return None
    return Warned(at, quote(event.get("message", "")))
