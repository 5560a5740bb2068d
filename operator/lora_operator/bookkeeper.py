"""What no decision waits for, written down from time to time: costs, and who uses what.

A module of its own because money grows while nobody looks at a run, and what is told of it to
administrators is nothing that a run's own look should wait for.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable
from datetime import datetime

from lora_api.policy import ACTING_POLICY
from lora_operator.cache import Cache
from lora_operator.departures import see_off
from lora_operator.errors import ApiError, OperatorError
from lora_operator.gate_memory import GateMemory, Kept
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import POLICIES
from lora_operator.logs import log
from lora_operator.node_prices import NodePrices
from lora_operator.observe import observe
from lora_operator.policy.faults import PolicyFaultError
from lora_operator.policy_look import bill, is_dear, known_of, node_of
from lora_operator.policy_report import PolicyReporter
from lora_operator.state.keys import Key, Object, key_of

FLUSH_SECONDS = 15.0


class Bookkeeper:
    """Bills runs at work, stores ledgers and tells policies how they stand."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cache: Cache,
        memory: GateMemory,
        prices: NodePrices,
        on_change: Callable[[Key], None],
        now: Callable[[], datetime],
    ) -> None:
        """Wire the bookkeeper.

        Args:
            client: Guarded by leadership.
            cache: Runs and policies.
            memory: The gates.
            prices: Of nodes.
            on_change: Told of runs whose cost has passed a line.
            now: The clock.
        """
        self._cache = cache
        self._memory = memory
        self._prices = prices
        self._on_change = on_change
        self._now = now
        self._reporter = PolicyReporter(client)

    async def run(self) -> None:
        """Write down from time to time what no decision waits for: costs, and who uses what."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write down what no decision waits for, in each namespace that has a policy."""
        for body in self._cache.all(POLICIES):
            try:
                await self._report(body)
            except OperatorError as error:
                log("policy not reported", policy=key_of(body), reason=error.reason)
            except Exception:
                # A fault met in one namespace must not end the others' day.
                log(
                    "policy report broke",
                    level=logging.ERROR,
                    policy=key_of(body),
                    traceback=traceback.format_exc(),
                )

    async def _report(self, body: Object) -> None:
        try:
            await self._write_down(body)
        except PolicyFaultError as fault:
            # Nothing starts in this namespace, and who writes its policy may never see our log.
            await self._reporter.report_fault(body, fault, self._now())
            raise

    async def _write_down(self, body: Object) -> None:
        key = key_of(body)
        if key.name != ACTING_POLICY:
            await self._reporter.report_idle(body, self._now())
            return
        async with self._memory.locks[key.namespace]:
            policy = self._memory.policy(key.namespace)
            if policy is None:
                return
            try:
                kept = await self._memory.of(key.namespace, policy)
                space = self._memory.counting(kept.space, policy)
                if kept.space.policy == policy:
                    # Else the next look says from when on other prices hold.
                    await self._bill(key.namespace, kept)
                    space = kept.space
                await kept.store.write_all(kept.space.ledgers)
            except (ApiError, PolicyFaultError):
                self._memory.forget(key.namespace)
                raise
            await self._reporter.report(body, space, self._now())

    async def _bill(self, namespace: str, kept: Kept) -> None:
        """Pay for what all runs at work have held until now, whether or not their looks come."""
        now = self._now()
        kept.space, kept.leaving = see_off(kept.space, kept.leaving, self._cache, now)
        at_work = [(name, k) for name, k in kept.seen.items() if k.uid in kept.space.working]
        for name, known in at_work:
            seen = observe(self._cache, Key(namespace, name), {})
            if seen is None or seen.run.uid != known.uid:
                continue
            price = await self._prices.price(kept.space.policy.prices, node_of(seen))
            kept.seen[name] = known_of(seen, price, now)
            kept.space = bill(kept.space, seen, price=price, now=now)
            if is_dear(kept.space, seen):
                self._on_change(Key(namespace, name))
