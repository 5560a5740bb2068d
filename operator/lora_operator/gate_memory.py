"""What is known of each namespace that has a policy, and how a new leader finds it again.

A module of its own because nothing of it is decided here: it is the gate as ledgers, runs and
policy together make it, for whoever has the namespace's lock.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError

from lora_api.policy import ACTING_POLICY, TrainingPolicySpec
from lora_api.reasons import Reason
from lora_api.wording import explain
from lora_operator.cache import Cache
from lora_operator.departures import Known, gone_before, see_off
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import POLICIES, TRAININGS
from lora_operator.ledger_store import LedgerStore
from lora_operator.observe import observe
from lora_operator.policy import gate
from lora_operator.policy.currency import currency_fault, in_its_currency
from lora_operator.policy.faults import PolicyFaultError
from lora_operator.policy.places import Places
from lora_operator.policy.space import Namespace
from lora_operator.policy_look import applicant_of, keeps_gpus, makes_room
from lora_operator.state.decision import is_terminal
from lora_operator.state.keys import Key, Object, key_of
from lora_operator.state.reading import read_run


class Kept:
    """What is known of one namespace.

    Attributes:
        space: The gate as it is.
        store: Where its ledgers lie.
        seen: The runs that were looked at, by name.
        leaving: Those whose objects are gone and whose pods are not, by uid.
        places: The queue as its runs are told.
    """

    def __init__(self, space: Namespace, store: LedgerStore) -> None:
        self.space = space
        self.store = store
        self.seen: dict[str, Known] = {}
        self.leaving: dict[str, Known] = {}
        self.places = Places()


class GateMemory:
    """Keeps the gates; a lock for each namespace says whose turn it is to change one."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cache: Cache,
        on_change: Callable[[Key], None],
        now: Callable[[], datetime],
    ) -> None:
        """Remember nothing yet.

        Args:
            client: Guarded by leadership.
            cache: Runs and policies.
            on_change: Told of runs of which no watch will have news.
            now: The clock.
        """
        self._client = client
        self._cache = cache
        self._on_change = on_change
        self._now = now
        self._kept: dict[str, Kept] = {}
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def known(self, namespace: str) -> Kept | None:
        """What is known, without asking for it."""
        return self._kept.get(namespace)

    def forget(self, namespace: str) -> Kept | None:
        """Have the namespace read again: a write failed, or nothing limits it any more."""
        return self._kept.pop(namespace, None)

    def policy(self, namespace: str) -> TrainingPolicySpec | None:
        """The policy that acts, or None.

        Raises:
            PolicyFaultError: It is not to be understood.
        """
        body = self._cache.get(POLICIES, Key(namespace, ACTING_POLICY))
        if body is None:
            return None
        try:
            return TrainingPolicySpec.model_validate(body.get("spec", {}), extra="ignore")
        except ValidationError as error:
            raise PolicyFaultError(
                Reason.POLICY_UNREADABLE,
                f"TrainingPolicy {namespace}/{ACTING_POLICY} can't be read, so nothing is started: "
                f"{explain(error)}",
            ) from error

    async def of(self, namespace: str, policy: TrainingPolicySpec) -> Kept:
        """What is known of the namespace; a new leader reads it from ledgers and runs.

        Raises:
            PolicyFaultError: A ledger is not to be understood, or counts in another currency.
        """
        known = self._kept.get(namespace)
        if known is not None:
            return known
        store = LedgerStore(self._client, namespace)
        space = Namespace(policy=policy, ledgers=await store.read())
        kept = Kept(self.counting(space, policy), store)
        await self._catch_up(namespace, kept.space)
        live, now = set(), self._now()
        noted = {uid for ledger in kept.space.ledgers.values() for uid in ledger.runs}
        for body in self.runs_of(namespace):
            run = read_run(body)
            live.add(run.uid)
            kept.seen[run.key.name] = Known(key=run.key, uid=run.uid, created_at=run.created_at)
            if run.spec is None or (is_terminal(run.status) and run.uid not in noted):
                continue
            seen = observe(self._cache, run.key, {})
            if is_terminal(run.status) and (seen is None or not keeps_gpus(kept.space, seen, now)):
                continue
            kept.space = gate.recall(
                kept.space,
                applicant_of(run, run.spec, policy),
                makes_room=seen is not None and makes_room(seen),
            )
        kept.space, gone = gone_before(kept.space, live, namespace, self._cache, now)
        kept.space, kept.leaving = see_off(kept.space, gone, self._cache, now)
        self._kept[namespace] = kept
        return kept

    def counting(self, space: Namespace, policy: TrainingPolicySpec) -> Namespace:
        """The gate under the policy as it is now, if its amounts are in the policy's currency.

        Raises:
            PolicyFaultError: They are not.
        """
        space = in_its_currency(replace(space, policy=policy))
        fault = currency_fault(space, self._now())
        if fault is not None:
            raise PolicyFaultError(Reason.CURRENCY_CHANGED, fault)
        return space

    async def _catch_up(self, namespace: str, space: Namespace) -> None:
        """Hear of the runs that the ledgers know and the cache does not, if they are there.

        Whoever led before may have let runs in of which our watch has yet to tell. To take them for
        deleted would be to sum them up, and to judge them anew once they are heard of.
        """
        noted = {uid for ledger in space.ledgers.values() for uid in ledger.runs}
        heard = {body["metadata"]["uid"] for body in self.runs_of(namespace)}
        if noted <= heard:
            return
        for body in await self._client.list_objects(TRAININGS, namespace, params={}):
            if self._cache.put(TRAININGS, body):
                # The watch will have no news of it.
                self._on_change(key_of(body))

    def runs_of(self, namespace: str) -> list[Object]:
        """The namespace's runs, as last heard of."""
        runs = self._cache.all(TRAININGS)
        return [body for body in runs if body["metadata"]["namespace"] == namespace]
