"""Whether a namespace has a policy that its watch has not told of yet.

A module of its own because a run that is let go is not stopped: before its first step the API
server has to be asked, but not once for each of a crowd.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from lora_api.policy import ACTING_POLICY
from lora_operator.cache import Cache
from lora_operator.errors import NotFoundError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import POLICIES
from lora_operator.shared_read import SharedRead

# A policy that is made later is the watch's to tell; it silently may be so late, and not later.
GOOD_FOR_SECONDS = 10.0
# Between a run's creation, by the API server's clock, and a question that surely came after it: its
# times are rounded down, and ours are an estimate.
SURELY_LATER = timedelta(seconds=2)


class _Asked(NamedTuple):
    steady: float
    at: datetime


class PolicyReads:
    """Asks for policies that runs may be older than, at most one question at a time for each."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cache: Cache,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fill a cache.

        Args:
            client: Any.
            cache: Receives the policies.
            now: The API server's time.
            clock: Seconds that only grow.
        """
        self._client = client
        self._cache = cache
        self._now = now
        self._clock = clock
        self._none_was_there: dict[str, _Asked] = {}
        self._read = SharedRead(self._fetch)

    async def until(self, namespace: str, created_at: datetime) -> None:
        """Have the policy in the cache that the namespace had when a run was created.

        Args:
            namespace: The run's.
            created_at: The run's `creationTimestamp`.
        """
        asked = self._none_was_there.get(namespace)
        is_fresh = asked is not None and self._clock() - asked.steady < GOOD_FOR_SECONDS
        if asked is None or not is_fresh or asked.at - created_at < SURELY_LATER:
            await self._read(namespace)

    async def _fetch(self, namespace: str) -> None:
        asked = _Asked(self._clock(), self._now())
        try:
            policy = await self._client.get(POLICIES, namespace, ACTING_POLICY)
        except NotFoundError:
            self._none_was_there[namespace] = asked
        else:
            self._cache.put(POLICIES, policy)
            self._none_was_there.pop(namespace, None)
        for name, known in list(self._none_was_there.items()):
            if asked.steady - known.steady >= GOOD_FOR_SECONDS:
                del self._none_was_there[name]
