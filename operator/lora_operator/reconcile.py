"""One look at one run: observe, decide, act, write the status once, tell.

A module of its own because this sequence, and where the API server is asked instead of the cache,
is the operator's correctness in one screen.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from lora_api.progress import Progress
from lora_api.status import LoRATrainingStatus
from lora_operator.actions import Actor
from lora_operator.cache import Cache
from lora_operator.errors import ConflictError, NotFoundError
from lora_operator.first_words import FirstWords
from lora_operator.gatekeeper import Gatekeeper
from lora_operator.gpu_nodes import GpuNodes
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import TRAININGS
from lora_operator.live_reads import LiveReads
from lora_operator.logs import log
from lora_operator.metrics import Metrics
from lora_operator.observe import NO_WORDS, NOTHING, look_up_warnings, observe, with_words_of
from lora_operator.rules.decide import decide
from lora_operator.state.decision import Action, Decision, Event
from lora_operator.state.keys import Key
from lora_operator.state.views import Observed, Run
from lora_operator.status import StatusWriter
from lora_operator.unreadable import Unreadable
from lora_operator.warning_events import WarningEvents
from lora_operator.written import WrittenStatus

# A run that was created so long after we became leader was touched by nobody else; by the API
# server's clock, whose times are rounded down, and which ours only estimates.
SURELY_LATER = timedelta(seconds=5)
# Two looks that keep contradicting each other must not become a flood of requests.
START_OVER = timedelta(seconds=1)


class Reconciler:
    """Brings one run at a time to where it should be."""

    def __init__(
        self,
        *,
        client: KubeClient,
        cache: Cache,
        actor: Actor,
        writer: StatusWriter,
        metrics: Metrics,
        progress_of: Mapping[str, Progress],
        moved_at: Mapping[str, datetime] = NOTHING,
        gatekeeper: Gatekeeper | None = None,
        gpu_nodes: GpuNodes | None = None,
        now: Callable[[], datetime],
        leads_since: Callable[[], datetime | None] = lambda: None,
        is_pressed: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wire the parts together; `progress_of` and `moved_at` are filled by the puller.

        `now` is the only clock that decisions see. Without a gatekeeper no namespace has a policy,
        without `gpu_nodes` nobody knows which GPUs there are.
        `leads_since` says since when nobody but this process can have acted, if that is known;
        `is_pressed`, whether there are runs for which nothing has been done yet.
        """
        self._client = client
        self._cache = cache
        self._live = LiveReads(client, cache)
        self._actor = actor
        self._writer = writer
        self._written = WrittenStatus(writer=writer, metrics=metrics, now=now)
        self._unreadable = Unreadable(metrics)
        self._warnings = WarningEvents(client)
        self._first_words = FirstWords(is_pressed)
        self._metrics = metrics
        self._progress_of = progress_of
        self._moved_at = moved_at
        self._gatekeeper = gatekeeper
        self._gpu_nodes = gpu_nodes
        self._now = now
        self._leads_since = leads_since

    async def reconcile(self, key: Key) -> float | None:
        """Look at a run and do what is to be done.

        Returns:
            Seconds after which to look again, or None.

        Raises:
            OperatorError: Something failed for now; the same look, later, repairs it.
        """
        begun = time.monotonic()
        outcome = "error"
        try:
            decision = await self._reconcile(key)
            outcome = "written" if decision is not None and decision.status else "unchanged"
        except ConflictError:
            # Somebody wrote between read and write: the next look starts from what is there now.
            await self._reread(key)
            raise
        finally:
            self._metrics.reconcile_seconds.labels(outcome).observe(time.monotonic() - begun)
        if decision is None or decision.revisit_at is None:
            return None
        return max(0.0, (decision.revisit_at - self._now()).total_seconds())

    async def _reconcile(self, key: Key) -> Decision | None:
        if self._gatekeeper is not None:
            await self._gatekeeper.look(key)
        seen = self._observe(key)
        self._unreadable.note(key, seen)
        if seen is None:
            self._first_words.forget(key)
            return None
        late = await self._say_first_word(seen)
        if late is not None:
            return late
        seen = await self._explain(seen)
        return await self._bring_about(key, seen)

    async def _say_first_word(self, seen: Observed) -> Decision | None:
        """Write down what was done for a run and is gone before anything was told of it."""
        overtaken = self._first_words.overtaken(seen)
        if overtaken is None:
            return None
        late = decide(overtaken, self._now())
        if late.status is None or late.ends_run:
            return None
        await self._write(seen.run, late.status, late.events)
        return replace(late, revisit_at=self._now())

    async def _explain(self, seen: Observed) -> Observed:
        """What is seen, with the cluster's own words about what it waits for."""
        seen = await look_up_warnings(self._client, self._warnings, seen, self._now())
        return await self._gpu_nodes.explain(seen) if self._gpu_nodes is not None else seen

    async def _bring_about(self, key: Key, before: Observed) -> Decision | None:
        """Do what is due for a run, and write down where it stands."""
        seen, decision = before, decide(before, self._now())
        if decision.actions:
            after = await self._act(key, decision.actions, before)
            if after is None:
                return None
            seen, decision = after, decide(after, self._now())
            if self._first_words.may_wait(seen, decision):
                return replace(decision, status=None, events=(), revisit_at=self._now())
        if decision.ends_run:
            live = await self._look_live(key, seen)
            if live is None:
                return None
            seen, decision = live, decide(live, self._now())
            if decision.actions:
                # The cache was wrong about the end: start over from what is there.
                return replace(decision, status=None, revisit_at=self._now() + START_OVER)
        if decision.status is not None:
            await self._write(seen.run, decision.status, decision.events)
        return decision

    async def _look_live(self, key: Key, before: Observed) -> Observed | None:
        """All there is of a run, as it is now: a terminal status can't be taken back.

        What was refused or warned of is as live, and is nowhere but in what was seen.
        """
        await self._reread(key)
        live = self._observe(key)
        return with_words_of(live, before) if live is not None else None

    def _observe(self, key: Key) -> Observed | None:
        gatekeeper = self._gatekeeper
        words = NO_WORDS if gatekeeper is None else gatekeeper.words
        seen = observe(self._cache, key, self._progress_of, self._moved_at, words)
        if gatekeeper is None or seen is None or seen.policy is not None:
            return seen
        word = gatekeeper.unasked(key.namespace)
        if word is None:
            return seen
        # Heard of since the gate was asked, as run or as policy: what is kept of a run that has
        # ended is the policy's to say already.
        heard = {seen.run.uid: word}
        return observe(self._cache, key, self._progress_of, self._moved_at, heard)

    async def _act(self, key: Key, wished: tuple[Action, ...], before: Observed) -> Observed | None:
        """What there is of a run, once what was due has been done.

        The watch of runs may be behind that of Jobs, or the run a ghost: only the run as it is now
        says whether something is created for it, and only all of it as it is now whether something
        is taken away.
        """
        if all(action.only_adds for action in wished):
            if not self._began_with_us(before.run):
                await self._live.run(key)
        else:
            await self._reread(key)
        seen = self._observe(key)
        if seen is None:
            return None
        seen = with_words_of(seen, before)
        actions = decide(seen, self._now()).actions
        if actions:
            seen = await self._actor.act(seen, actions)
            self._log_refusal(seen)
        return seen

    def _began_with_us(self, run: Run) -> bool:
        """Whether all that can have been done for a run was done, and remembered, by this process.

        Then the cache can't lack an end that would have to keep a Job from being created.
        """
        since = self._leads_since()
        return since is not None and run.created_at - since >= SURELY_LATER and not run.status.phase

    async def _reread(self, key: Key) -> None:
        """Bring run, claim, Job and pods in the cache up to the API server's state."""
        await self._live.run(key)
        seen = self._observe(key)
        if seen is not None:
            jobs = (seen.run.job_name, *(job.name for job in seen.errands))
            await self._live.children(key, run_uid=seen.run.uid, jobs=jobs)

    async def _write(self, run: Run, status: LoRATrainingStatus, events: tuple[Event, ...]) -> None:
        try:
            stored = await self._writer.write(run, status)
        except NotFoundError:
            self._cache.drop(TRAININGS, run.key)
            return
        self._cache.put(TRAININGS, stored)
        await self._written.tell(run, status, events)

    def _log_refusal(self, seen: Observed) -> None:
        refused = seen.claim_refused or seen.job_refused
        if refused is not None:
            log("creation refused", run=seen.run.key, what=refused.what, reason=refused.kind)
