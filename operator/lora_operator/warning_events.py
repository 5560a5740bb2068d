"""Warnings that the cluster has put on record, read once for all who wait in a namespace.

A module of its own because Events are the API server's dearest list: it keeps them in no cache, and
goes through all of a namespace to find those about one object. A thousand runs that waited for
their pods, each asking for itself, kept it busy with little else. And because everybody who may
create Events says how many there are, and how large: where a namespace has more than can be read,
each object that waits is asked for by itself, more seldom.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from lora_operator.errors import ApiError, TooLargeError
from lora_operator.kube.client import PAGE_SIZE, KubeClient
from lora_operator.kube.resources import EVENTS
from lora_operator.logs import log
from lora_operator.shared_read import SharedRead
from lora_operator.state.keys import Object
from lora_operator.state.reading import read_time
from lora_operator.state.text import quote

# What kept a pod from a node says nothing about why its node does not start it, and the pod's own
# condition says it, too.
SELECTOR = "type=Warning,reason!=FailedScheduling"
GOOD_FOR_SECONDS = 2.0
# What is asked for one object alone costs the API server as much as for all, so it is kept longer,
# as is the knowledge that a namespace has too many.
GOOD_FOR_ONE_SECONDS = 30.0
# What nobody has asked for in so long is forgotten.
FORGET_AFTER_SECONDS = 60.0
# Far more than there are runs in a namespace; what lies behind is not worth the memory.
MAX_PAGES = 20
# One object has a few dozens at most: kubelet and controllers count a repeated one up.
MAX_PAGES_OF_ONE = 4
# Who does not get a turn goes on with what is known: nobody's run waits for another's explanation.
ONES_AT_A_TIME = 4
# Five hundred events of a cluster take half a megabyte; whoever makes larger ones gets small pages.
MAX_PAGE_BYTES = 2 * 1024**2
SMALLER = 10
UNREAD = " (it has more warnings than are read)"


class Warned(NamedTuple):
    """The latest warning about an object."""

    at: datetime
    message: str


class Subject(NamedTuple):
    """What warnings are read about: all objects of a namespace, or one."""

    namespace: str
    uid: str | None = None

    @property
    def selector(self) -> str:
        """Field selector of its events."""
        return SELECTOR if self.uid is None else f"{SELECTOR},involvedObject.uid={self.uid}"

    @property
    def max_pages(self) -> int:
        """How many requests it is worth."""
        return MAX_PAGES if self.uid is None else MAX_PAGES_OF_ONE


@dataclass
class _Read:
    at: float
    is_whole: bool = True
    """Whether there was no more to read."""
    count: int = 0
    latest: dict[str, Warned] = field(default_factory=dict)

    def take(self, events: Iterable[Object]) -> None:
        """Note what a page of events says."""
        for event in events:
            self.count += 1
            uid, warned = event.get("involvedObject", {}).get("uid", ""), _warned(event)
            if warned is not None and (uid not in self.latest or self.latest[uid].at < warned.at):
                self.latest[uid] = warned


class WarningEvents:
    """The latest warning about each object, by its uid, at most half a minute old.

    At most two seconds where the namespace has no more of them than can be read at once.
    """

    def __init__(self, client: KubeClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read through `client`.

        Args:
            client: Any.
            clock: Seconds that only grow.
        """
        self._client = client
        self._clock = clock
        self._shared = SharedRead(self._refresh)
        self._known: dict[Subject, _Read] = {}
        self._ones = 0

    async def latest(self, namespace: str, uid: str) -> Warned | None:
        """The latest warning about an object, or None: also where the API server won't say.

        By uid, because events outlive their object by an hour, and an earlier run's had the same
        name.
        """
        try:
            read = await self._read(Subject(namespace))
            if not read.is_whole:
                read = await self._read_one(Subject(namespace, uid), read)
        except ApiError:
            # Only an explanation: what is decided must not wait for it.
            return None
        warned = read.latest.get(uid)
        if warned is None or read.is_whole:
            return warned
        return warned._replace(message=warned.message + UNREAD)

    async def _read(self, subject: Subject) -> _Read:
        known = self._fresh(subject)
        if known is not None:
            return known
        await self._shared(subject)
        # What took a minute to read may have been forgotten by now.
        return self._known.get(subject, _Read(at=self._clock()))

    async def _read_one(self, subject: Subject, fallback: _Read) -> _Read:
        """What is said about one object, of which the namespace's first warnings may say less."""
        if self._ones >= ONES_AT_A_TIME and self._fresh(subject) is None:
            return self._known.get(subject, fallback)
        self._ones += 1
        try:
            return await self._read(subject)
        finally:
            self._ones -= 1

    def _fresh(self, subject: Subject) -> _Read | None:
        known = self._known.get(subject)
        if known is None or self._clock() - known.at >= _good_for(subject, known):
            return None
        return known

    async def _refresh(self, subject: Subject) -> None:
        read = await self._fetch(subject)
        known = self._known.get(subject)
        if not read.is_whole and (known is None or known.is_whole):
            log(
                "warnings left unread",
                level=logging.WARNING,
                namespace=subject.namespace,
                object_uid=subject.uid,
                read=read.count,
                cure="remove what makes so many Events there, or such large ones",
            )
        self._known[subject] = read
        for other in [s for s, r in self._known.items() if read.at - r.at > FORGET_AFTER_SECONDS]:
            del self._known[other]

    async def _fetch(self, subject: Subject) -> _Read:
        read = _Read(at=self._clock())
        params = {"fieldSelector": subject.selector}
        limit = PAGE_SIZE
        for _ in range(subject.max_pages):
            params["limit"] = str(limit)
            try:
                page = await self._client.list_page(
                    EVENTS, subject.namespace, params=params, most_bytes=MAX_PAGE_BYTES
                )
            except TooLargeError:
                if limit == 1:
                    break
                limit = max(1, limit // SMALLER)
                continue
            read.take(page.get("items") or ())
            token = page["metadata"].get("continue")
            if not token:
                return read
            params["continue"] = token
        read.is_whole = False
        return read


def _good_for(subject: Subject, known: _Read) -> float:
    is_cheap = subject.uid is None and known.is_whole
    return GOOD_FOR_SECONDS if is_cheap else GOOD_FOR_ONE_SECONDS


def _warned(event: Object) -> Warned | None:
    """What an event says; None where that can't be read: whoever may create events writes it."""
    told = event.get("lastTimestamp") or event.get("eventTime")
    try:
        at = read_time(told or event["metadata"]["creationTimestamp"])
    except (ValueError, OverflowError):
        return None
    return Warned(at, quote(event.get("message", "")))
