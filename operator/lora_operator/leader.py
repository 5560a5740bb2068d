"""Leader election by a Lease: of two replicas only one acts, and who loses the Lease begins anew.

A module of its own, and not kopf's peering, because peering has neither compare-and-swap nor a
fence: two replicas can believe at once that they may write.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lora_operator.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    LeadershipLostError,
    NotFoundError,
    NotLeaderError,
)
from lora_operator.kube.client import KubeClient, Object
from lora_operator.kube.resources import LEASES
from lora_operator.logs import log


def since_boot() -> float:
    """Seconds of a clock that nobody sets.

    Where the system has one, a clock that goes on while the machine sleeps: a virtual machine that
    was suspended must not believe that its Lease is fresh.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """The clockwork of the election, in seconds."""

    duration: float = 13.0
    """How long others wait after the last renewal that they saw."""

    renew_every: float = 2.0
    """How often the holder renews: the only write of an idle operator."""

    give_up_after: float = 10.5
    """How long after its last renewal the holder still begins writes. The rest of `duration` is
    what a write that has begun may take: it is given up before anybody else begins."""

    answer_within: float = 5.0
    """How long one request about the Lease may take, so that a connection that fell silent leaves
    time for another try; long enough for an API server that is out of breath."""

    poll_every: float = 0.5
    """How often a standby looks."""


class Elector:
    """Takes, renews and gives back the Lease."""

    def __init__(
        self,
        *,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes = LeaseTimes(),
        clock: Callable[[], float] = since_boot,
    ) -> None:
        """Use a client whose guard is not this elector's own."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._clock = clock
        self._lease: Object | None = None
        self._valid_until = float("-inf")

    @property
    def leads(self) -> bool:
        """Whether this replica may write now."""
        return self._clock() < self._valid_until

    def guard(self) -> float:
        """Raise where this replica may not write.

        Returns:
            Seconds after which a write that begins now must be given up, because somebody else
            may lead from then on.

        Raises:
            NotLeaderError: The Lease is not held, or was not renewed in time.
        """
        left = self._valid_until - self._clock()
        if left <= 0:
            raise NotLeaderError("This replica does not hold the Lease, so it does not write.")
        return left + self._times.duration - self._times.give_up_after

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        seen_version, seen_at = "", self._clock()
        while True:
            try:
                lease = await self._read()
                version = lease["metadata"]["resourceVersion"] if lease else ""
                if version != seen_version:
                    seen_version, seen_at = version, self._clock()
                # Our own clock alone measures the silence: the holder's may be wrong.
                silent = self._clock() - seen_at
                if self._may_take(lease, silent) and await self._take(lease):
                    return
            except ApiError as error:
                log("lease not readable", reason=error.reason, message=error.message)
            await asyncio.sleep(self._times.poll_every)

    async def hold(self) -> None:
        """Renew until that fails for too long.

        Raises:
            LeadershipLostError: Somebody else holds the Lease, or it could not be renewed.
        """
        while True:
            await asyncio.sleep(self._times.renew_every if self._renewed_lately() else 0.5)
            try:
                if not await self._take(self._lease):
                    break
            except ApiError as error:
                log("lease not renewed", reason=error.reason, message=error.message)
            if not self.leads:
                break
        self._valid_until = float("-inf")
        raise LeadershipLostError(
            f"The Lease {self._namespace}/{self._name} was lost; this replica forgets what it knew "
            "and stands by."
        )

    async def release(self) -> None:
        """Give the Lease back, so that a standby need not wait for it to run out.

        To be called once `hold` has ended: it would take the Lease again.
        """
        held, self._valid_until = self.leads, float("-inf")
        if not held or self._lease is None:
            return
        try:
            try:
                await self._give_back(self._lease)
            except ConflictError:
                # A renewal that was cut off before its answer may have been written all the same.
                if not await self._is_ours_after_all():
                    return
                await self._give_back(self._lease)
            log("lease released", lease=self._name)
        except ApiError as error:
            log("lease not released", reason=error.reason)

    async def _give_back(self, lease: Object) -> None:
        body = self._body(lease, holder="", duration=1)
        await self._client.replace_unguarded(LEASES, self._namespace, body)

    def _may_take(self, lease: Object | None, silent_seconds: float) -> bool:
        if lease is None:
            return True
        spec = lease.get("spec", {})
        # Our own name is left there when our container is restarted within the same pod.
        if spec.get("holderIdentity") in {None, "", self._identity}:
            return True
        return bool(silent_seconds >= spec.get("leaseDurationSeconds", 0))

    def _renewed_lately(self) -> bool:
        left = self._valid_until - self._clock()
        return left > self._times.give_up_after - self._times.renew_every

    async def _read(self) -> Object | None:
        try:
            return await self._client.get(LEASES, self._namespace, self._name)
        except NotFoundError:
            return None

    async def _take(self, lease: Object | None) -> bool:
        """Write ourselves into the Lease, if it is still as read.

        Returns:
            False where somebody was faster.
        """
        begun = self._clock()
        body = self._body(lease, holder=self._identity, duration=int(self._times.duration))
        try:
            if lease is None:
                self._lease = await self._client.create_unguarded(LEASES, self._namespace, body)
            else:
                self._lease = await self._client.replace_unguarded(LEASES, self._namespace, body)
        except (AlreadyExistsError, ConflictError):
            return await self._is_ours_after_all()
        self._valid_until = begun + self._times.give_up_after
        return True

    async def _is_ours_after_all(self) -> bool:
        # A renewal whose answer was lost has moved the version; only a foreign holder is a loss.
        lease = await self._read()
        if lease is None or lease["spec"].get("holderIdentity") != self._identity:
            return False
        self._lease = lease
        return True

    def _body(self, lease: Object | None, *, holder: str, duration: int) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old: dict[str, Any] = lease["spec"] if lease is not None else {}
        changes_hands = old.get("holderIdentity") != holder
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        if lease is not None:
            metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
        return {
            "apiVersion": LEASES.api_version,
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": duration,
                "acquireTime": now if changes_hands else old.get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": old.get("leaseTransitions", 0) + (1 if changes_hands else 0),
            },
        }
