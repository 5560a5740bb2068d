"""One look at one run: observe, decide, act, write the status once, tell.

A module of its own because this sequence, and where the API server is asked instead of the cache,
is the operator's correctness in one screen.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from lora_api.progress import Progress
from lora_api.status import LoRATrainingStatus, Phase
from lora_operator.actions import Actor
from lora_operator.cache import Cache
from lora_operator.errors import ConflictError, NotFoundError, OperatorError
from lora_operator.first_words import FirstWords
from lora_operator.gatekeeper import Gatekeeper
from lora_operator.gpu_nodes import GpuNodes
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS, Resource
from lora_operator.labels import RUN_UID_LABEL, workspace_name
from lora_operator.logs import log
from lora_operator.metrics import Metrics
from lora_operator.observe import NO_WORDS, NOTHING, look_up_warnings, observe, with_words_of
from lora_operator.policy_look import UNASKED
from lora_operator.rules.decide import decide
from lora_operator.run_metrics import bounded_reason, bounded_recipe
from lora_operator.state.decision import Action, Decision, Event
from lora_operator.state.keys import Key
from lora_operator.state.text import quote
from lora_operator.state.views import Observed, Run
from lora_operator.status import StatusWriter
from lora_operator.warning_events import WarningEvents

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
        self._warnings = WarningEvents(client)
        self._leads_since = leads_since
        self._first_words = FirstWords(is_pressed)
        self._cache = cache
        self._actor = actor
        self._writer = writer
        self._metrics = metrics
        self._progress_of = progress_of
        self._moved_at = moved_at
        self._gatekeeper = gatekeeper
        self._gpu_nodes = gpu_nodes
        self._now = now
        self._unreadable: dict[Key, str] = {}

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
        self._note_unreadable(key, seen)
        if seen is None:
            self._first_words.forget(key)
            return None
        overtaken = self._first_words.overtaken(seen)
        if overtaken is not None:
            late = decide(overtaken, self._now())
            if late.status is not None and not late.ends_run:
                await self._write(seen.run, late.status, late.events)
                return replace(late, revisit_at=self._now())
        seen = await look_up_warnings(self._client, self._warnings, seen, self._now())
        if self._gpu_nodes is not None:
            seen = await self._gpu_nodes.explain(seen)
        return await self._bring_about(key, seen)

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
            # A terminal status can't be taken back, so it is decided on live objects only; what
            # was refused or warned of is as live, and is nowhere but in what was seen.
            await self._reread(key)
            live = self._observe(key)
            if live is None:
                return None
            seen = with_words_of(live, seen)
            decision = decide(seen, self._now())
            if decision.actions:
                # The cache was wrong about the end: start over from what is there.
                return replace(decision, status=None, revisit_at=self._now() + START_OVER)
        if decision.status is not None:
            await self._write(seen.run, decision.status, decision.events)
        return decision

    def _observe(self, key: Key) -> Observed | None:
        gatekeeper = self._gatekeeper
        words = NO_WORDS if gatekeeper is None else gatekeeper.words
        seen = observe(self._cache, key, self._progress_of, self._moved_at, words)
        if gatekeeper is None or seen is None or seen.policy is not None:
            return seen
        # Heard of since the gate was asked, as run or as policy.
        return replace(seen, policy=UNASKED) if gatekeeper.limits(key.namespace) else seen

    async def _act(self, key: Key, wished: tuple[Action, ...], before: Observed) -> Observed | None:
        """What there is of a run, once what was due has been done.

        The watch of runs may be behind that of Jobs, or the run a ghost: only the run as it is now
        says whether something is created for it, and only all of it as it is now whether something
        is taken away.
        """
        if all(action.only_adds for action in wished):
            if not self._began_with_us(before.run):
                await self._reread_one(TRAININGS, key)
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
        await self._reread_one(TRAININGS, key)
        seen = self._observe(key)
        if seen is None:
            return
        for name in (seen.run.job_name, *(job.name for job in seen.errands)):
            await self._reread_one(JOBS, Key(key.namespace, name))
        # By name: a workspace that the cache does not know may hold the only copy of a LoRA.
        await self._reread_one(CLAIMS, Key(key.namespace, workspace_name(key.name)))
        selector = f"{RUN_UID_LABEL}={seen.run.uid}"
        pods = await self._client.list_objects(
            PODS, key.namespace, params={"labelSelector": selector}
        )
        for pod in pods:
            self._cache.put(PODS, pod)
        # Nobody may have told of those that are gone: after an outage the relist does not.
        alive = {pod["metadata"]["uid"] for pod in pods}
        for pod in self._cache.children(key, PODS):
            meta = pod["metadata"]
            is_ours = meta.get("labels", {}).get(RUN_UID_LABEL) == seen.run.uid
            if is_ours and meta["uid"] not in alive:
                self._cache.drop(PODS, Key(key.namespace, meta["name"]), uid=meta["uid"])

    async def _reread_one(self, resource: Resource, key: Key) -> None:
        try:
            body = await self._client.get(resource, key.namespace, key.name)
        except NotFoundError:
            self._cache.drop(resource, key)
        else:
            self._cache.put(resource, body)

    async def _write(self, run: Run, status: LoRATrainingStatus, events: tuple[Event, ...]) -> None:
        try:
            stored = await self._writer.write(run, status)
        except NotFoundError:
            self._cache.drop(TRAININGS, run.key)
            return
        self._cache.put(TRAININGS, stored)
        self._metrics.status_writes.inc()
        self._count(run, status)
        if status.phase is not run.status.phase or events:
            log(
                "run changed",
                run=run.key,
                phase=status.phase,
                attempt=status.attempts,
                reason=events[0].reason if events else None,
            )
        await self._tell(run, events)

    async def _tell(self, run: Run, events: tuple[Event, ...]) -> None:
        try:
            await self._writer.tell(run, events, self._now())
        except OperatorError as error:
            # The status is written and true; an event lost in a storm is not worth a retry.
            log("event not posted", run=run.key, error=error.reason)

    def _note_unreadable(self, key: Key, seen: Observed | None) -> None:
        """Tell, once per version, of a run that is left alone because its status is foreign."""
        if seen is None or not seen.run.status_fault:
            self._unreadable.pop(key, None)
            return
        if self._unreadable.get(key) == seen.run.resource_version:
            return
        self._unreadable[key] = seen.run.resource_version
        self._metrics.unreadable_statuses.inc()
        log(
            "status not readable",
            level=logging.WARNING,
            run=key,
            fault=quote(seen.run.status_fault),
            cure="a newer operator wrote it: run that version again, or create the run again",
        )

    def _log_refusal(self, seen: Observed) -> None:
        refused = seen.claim_refused or seen.job_refused
        if refused is not None:
            log("creation refused", run=seen.run.key, what=refused.what, reason=refused.kind)

    def _count(self, run: Run, status: LoRATrainingStatus) -> None:
        recipe = bounded_recipe(run.spec.recipe if run.spec is not None else "")
        old = run.status
        if status.phase is old.phase or status.phase is None:
            return
        now = self._now()
        if old.phase is not None and old.phase_started_at is not None:
            spent = (now - old.phase_started_at).total_seconds()
            self._metrics.phase_seconds.labels(old.phase.lower(), recipe).observe(max(0.0, spent))
        if not status.phase.is_terminal:
            return
        total = ((status.completed_at or now) - run.created_at).total_seconds()
        self._metrics.phase_seconds.labels("total", recipe).observe(max(0.0, total))
        if status.phase is Phase.COMPLETED:
            self._metrics.completed.labels(recipe).inc()
        elif status.failure is not None:
            reason = bounded_reason(status.failure.reason)
            self._metrics.failed.labels(reason, recipe).inc()
