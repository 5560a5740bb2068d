"""The gate of each namespace that has a policy: each run is asked about before it is decided on.

A module of its own because here the pure gate meets the API server: one look at a time in each
namespace, and the ledger is written before anybody acts on what it says.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from lora_api.policy import ACTING_POLICY, GpuSettings, TrainingPolicySpec
from lora_api.status import Phase
from lora_operator.bookkeeper import Bookkeeper
from lora_operator.cache import Cache
from lora_operator.departures import see_off
from lora_operator.errors import InternalError, OperatorError
from lora_operator.gate_memory import GateMemory
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import POLICIES, TRAININGS
from lora_operator.node_prices import NodePrices
from lora_operator.observe import observe
from lora_operator.policy.explain import place_in_words
from lora_operator.policy.faults import PolicyFaultError
from lora_operator.policy.forecast import forecast
from lora_operator.policy.gpu_fit import UNSET, gpu_names
from lora_operator.policy.places import Places
from lora_operator.policy.queue import Waiting
from lora_operator.policy.space import Namespace
from lora_operator.policy.turns import Released, release
from lora_operator.policy_look import UNASKED, known_of, look_at, node_of, word_of
from lora_operator.policy_reads import PolicyReads
from lora_operator.state.decision import is_terminal
from lora_operator.state.keys import Key, Object
from lora_operator.state.reading import read_time
from lora_operator.state.views import Observed, Permission, PolicyWord

# Those at the head of a queue hear of each change; the others learn their place when they are
# looked at next.
TOLD_AT_ONCE = 20


class Gatekeeper:
    """Asks a namespace's policy about each run before anything is decided of it."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cache: Cache,
        on_change: Callable[[Key], None],
        on_start: Callable[[Key], None],
        now: Callable[[], datetime],
        gpu: GpuSettings = UNSET,
    ) -> None:
        """Wire the gatekeeper.

        Args:
            client: Guarded by leadership.
            cache: Runs and policies.
            on_change: Told of runs that should be looked at, because what is said of them changed.
            on_start: Told of runs that may start, because others made room: GPUs idle for them.
            now: The clock.
            gpu: How GPUs are called where the policy does not say so.
        """
        self._cache = cache
        self._on_change = on_change
        self._on_start = on_start
        self._now = now
        self._gpu = gpu
        self._at_fault: set[str] = set()
        self._policy_reads = PolicyReads(client=client, cache=cache, now=now)
        self._prices = NodePrices(client, now=now)
        self._memory = GateMemory(client=client, cache=cache, on_change=on_change, now=now)
        self._books = Bookkeeper(
            client=client,
            cache=cache,
            memory=self._memory,
            prices=self._prices,
            on_change=on_change,
            now=now,
        )
        self.words: dict[str, PolicyWord] = {}
        """What the policy says of a run, by uid; nothing where there is no policy."""

    def policy_changed(self, namespace: str) -> None:
        """Have every run of the namespace looked at, unless it was only the status that changed.

        Those that wait come first and in their order, so that a raised quota does not have to wait
        for looks at hundreds of runs for which nothing changes.
        """
        kept = self._memory.known(namespace)
        policy = None
        with contextlib.suppress(InternalError):
            policy = self._memory.policy(namespace)
            if namespace not in self._at_fault and policy == (
                kept.space.policy if kept is not None else None
            ):
                return
        queue: tuple[Waiting, ...] = ()
        if kept and policy:
            queue = kept.places.queue(replace(kept.space, policy=policy), self._now())
        names = {body["metadata"]["name"] for body in self._memory.runs_of(namespace)}
        for name in dict.fromkeys((*(run.name for run in queue if run.name in names), *names)):
            self._on_change(Key(namespace, name))

    def limits(self, namespace: str) -> bool:
        """Whether a policy acts in a namespace, so that nobody starts there who was not let go."""
        return self._cache.get(POLICIES, Key(namespace, ACTING_POLICY)) is not None

    def unasked(self, namespace: str) -> PolicyWord | None:
        """What is said of a run of which the gate was not asked yet, where a policy acts."""
        if not self.limits(namespace):
            return None
        policy = None
        with contextlib.suppress(PolicyFaultError):
            policy = self._memory.policy(namespace)
        return replace(UNASKED, policy=policy)

    async def look(self, key: Key) -> None:
        """Bring the namespace's gate up to what is known of a run, and note what it says of it.

        A run that waits where policy or ledger can't be understood is told so; one that has ended
        is not touched before they can, as what is kept of it may be the policy's to say.

        Raises:
            OperatorError: The ledger can't be read or written; nothing was decided.
        """
        new = self._new(key)
        if new is not None:
            await self._policy_reads.until(
                key.namespace, read_time(new["metadata"]["creationTimestamp"])
            )
        async with self._memory.locks[key.namespace]:
            policy = None
            try:
                policy = self._memory.policy(key.namespace)
                if policy is None:
                    self._no_policy(key)
                else:
                    await self._look(key, policy)
                self._at_fault.discard(key.namespace)
            except OperatorError as error:
                # Whether a write arrived is not known: the API server says so at the next look.
                self._memory.forget(key.namespace)
                if not isinstance(error, PolicyFaultError) or not self._hold(key, policy, error):
                    raise

    async def run(self) -> None:
        """Write down from time to time what no decision waits for."""
        await self._books.run()

    async def flush(self) -> None:
        """Write it down now."""
        await self._books.flush()

    async def _look(self, key: Key, policy: TrainingPolicySpec) -> None:
        kept = await self._memory.of(key.namespace, policy)
        now = self._now()
        space = self._memory.counting(kept.space, policy)
        seen = observe(self._cache, key, {})
        known = kept.seen.get(key.name)
        if known is not None and (seen is None or seen.run.uid != known.uid):
            self.words.pop(known.uid, None)
            kept.leaving[known.uid] = kept.seen.pop(key.name)
        space, kept.leaving = see_off(space, kept.leaving, self._cache, now)
        answer = None
        if seen is not None:
            price = await self._prices.price(policy.prices, node_of(seen))
            kept.seen[key.name] = known_of(seen, price, now)
            product = await self._product(seen, policy)
            space, answer = look_at(space, seen, price=price, now=now, product=product)
        released = release(space, now)
        space, before = released.namespace, kept.space
        await kept.store.write_urgent(space.ledgers)
        kept.space = space
        if seen is not None:
            uid = seen.run.uid
            answer = next((why for run, why in released.refused if run.uid == uid), answer)
            place = _place(space, kept.places, uid, now)
            self.words[uid] = word_of(space, seen.run, answer, place)
        self._wake(key, before, released, kept.places.queue(space, now))

    async def _product(self, seen: Observed, policy: TrainingPolicySpec) -> str:
        """Name of the GPUs of a run that has completed and is yet to be summed up."""
        status = seen.run.status
        is_final = status.cost is not None and status.cost.final
        if status.phase is not Phase.COMPLETED or is_final:
            return ""
        label = gpu_names(policy.gpu, self._gpu).product
        return await self._prices.product(node_of(seen), label)

    def _wake(
        self, key: Key, before: Namespace, released: Released, queue: tuple[Waiting, ...]
    ) -> None:
        """Have others looked at for whom this look changed something: who may start comes first."""
        space = released.namespace
        for run in released.started:
            if run.name != key.name:
                self._on_start(Key(key.namespace, run.name))
        moved = {run.name for run, _ in released.refused}
        moved |= {space.working[uid].name for uid in space.preempted - before.preempted}
        if space.waiting is not before.waiting and _ranks(space) != _ranks(before):
            moved |= {run.name for run in queue[:TOLD_AT_ONCE]}
        for name in sorted(moved - {key.name}):
            self._on_change(Key(key.namespace, name))

    def _hold(self, key: Key, policy: TrainingPolicySpec | None, fault: PolicyFaultError) -> bool:
        """Have a run say why it waits, or go on with what it has begun.

        Returns:
            False for one that better waits for the policy: it has ended, or has begun and may need
            defaults that nobody can read now.
        """
        self._at_fault.add(key.namespace)
        seen = observe(self._cache, key, {})
        if seen is None:
            return True
        status = seen.run.status
        has_begun = seen.job is not None or bool(status.attempts)
        if seen.run.deleting or is_terminal(status) or (policy is None and has_begun):
            return False
        self.words[seen.run.uid] = PolicyWord(
            permission=Permission.AWAITED, reason=fault.cause, message=fault.message, policy=policy
        )
        return True

    def _new(self, key: Key) -> Object | None:
        """A run that was never looked at, in a namespace where no policy was heard of."""
        if self.limits(key.namespace):
            return None
        body = self._cache.get(TRAININGS, key)
        return body if body is not None and not body.get("status", {}).get("phase") else None

    def _no_policy(self, key: Key) -> None:
        """Nothing is limited any more, and nothing counted."""
        kept = self._memory.forget(key.namespace)
        for known in kept.seen.values() if kept is not None else ():
            self.words.pop(known.uid, None)
        # What was known of the namespace is forgotten where its ledger failed, its words are not.
        body = self._cache.get(TRAININGS, key)
        if body is not None:
            self.words.pop(body["metadata"]["uid"], None)


def _ranks(space: Namespace) -> dict[str, int]:
    """What tells of each run that waits whether its place may be another."""
    return {uid: run.priority for uid, run in space.waiting.items()}


def _place(space: Namespace, places: Places, uid: str, now: datetime) -> str:
    """The run's place in words, with an estimate for those near the head."""
    position = places.position(space, uid, now)
    if position is None:
        return ""
    queue = places.queue(space, now)
    working = tuple(space.working.values())
    waiting = tuple(space.waiting.values())
    expected = forecast(waiting, working, space.policy, now) if position < TOLD_AT_ONCE else {}
    return place_in_words(
        queue[position],
        position=position + 1,
        queue_length=len(queue),
        working=working,
        policy=space.policy,
        starts_at=expected.get(uid),
        now=now,
    )
