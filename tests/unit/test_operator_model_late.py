"""Random histories seen late: each watch may lag behind the truth, and caches hold ghosts.

A module of its own because here the operator's own look is driven, with its cache, its live reads
and its compared writes: what a stale cache may not lead to is their concern, and not a decision's.
"""

import asyncio
from datetime import datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.unit.test_operator_model import ARunsLife
from tests.world import PARTIAL, TIDY, UPLOAD
from tests.world_api import Object, WorldApi

from lora_api.progress import Progress, Stage
from lora_api.status import LoRATrainingStatus, Phase
from lora_api.training import WorkspaceType
from lora_operator.actions import Actor
from lora_operator.cache import Cache
from lora_operator.errors import OperatorError
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS, Resource
from lora_operator.metrics import Metrics
from lora_operator.observe import observe
from lora_operator.reconcile import Reconciler
from lora_operator.state.decision import is_terminal
from lora_operator.state.keys import Key
from lora_operator.status import StatusWriter

ANNA = Key("studio", "anna")
KINDS = (TRAININGS, CLAIMS, JOBS, PODS)
METRICS = Metrics()


class Killed(BaseException):
    """The operator is gone, between a write and the answer to it."""


def gone(cache: Cache, kind: Resource, there: list[Object]) -> set[str]:
    """What a cache holds of a kind and is not there any more, by uid."""
    return cache.uids(kind).keys() - {body["metadata"]["uid"] for body in there}


class ARunsLifeSeenLate(ARunsLife):
    """The operator looks at its cache; what that lacks, and what it has too much, is chance."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.api = WorldApi(self.world, before=self._check_write, after=self._count_write)
        self.late: set[Resource] = set()
        self.ghosts: set[str] = set()
        self.writes_left: int | None = None
        self.progress_of: dict[str, Progress] = {}
        self.moved_at: dict[str, datetime] = {}
        self.standby = Cache()
        self._lead()

    def _lead(self) -> None:
        """The standby takes over: it knows what its watches have told, and not what was answered.

        Another standby begins with a list of all there is.
        """
        self.cache, self.standby = self.standby, Cache()
        for kind in KINDS:
            for body in self.api.all(kind):
                self.standby.put(kind, body)
        self.reconciler = Reconciler(
            client=self.api,
            cache=self.cache,
            actor=Actor(client=self.api, cache=self.cache, default_image="lora-trainer:test"),
            writer=StatusWriter(client=self.api, identity="test"),
            metrics=METRICS,
            progress_of=self.progress_of,
            moved_at=self.moved_at,
            now=lambda: self.world.now,
        )

    # The operator.

    @precondition(lambda self: self.world.is_there)
    @rule(dies_after=st.sampled_from([None, None, None, 0, 1, 2]))
    def operator_looks(self, dies_after: int | None) -> None:
        """One look; a killed operator has made so many writes and heard of all but the last."""
        for kind in KINDS:
            if kind not in self.late:
                self._deliver(kind)
        self._ask_trainers()
        self.writes_left = dies_after
        try:
            self.loop.run_until_complete(self.reconciler.reconcile(ANNA))
        except Killed:
            self._lead()
        except OperatorError:
            # The queue has it looked at again.
            pass
        else:
            self._note_what_was_told()
        self.writes_left = None

    def _deliver(self, kind: Resource) -> None:
        """Let the watches of a kind tell all that they have not told yet."""
        there = self.api.all(kind)
        for cache in (self.cache, self.standby):
            for body in there:
                cache.put(kind, body)
            cache.evict(kind, gone(cache, kind, there) - self.ghosts)

    def _ask_trainers(self) -> None:
        known = self.cache.uids(PODS)
        for mapping in (self.progress_of, self.moved_at):
            mapping.clear()
        for pod in self.world.pods:
            if pod.view.uid in known and pod.progress is not None:
                self.progress_of[pod.view.uid] = pod.progress
                self.moved_at[pod.view.uid] = pod.moved_at

    def _note_what_was_told(self) -> None:
        sight = observe(self.cache, ANNA, self.progress_of)
        if sight is not None and sight.progress is not None:
            told = sight.progress.stage
            self.was_seen_trained |= told in {Stage.SAVE, Stage.SAMPLE, Stage.PUBLISH}

    def _count_write(self) -> None:
        if self.writes_left is None:
            return
        self.writes_left -= 1
        if self.writes_left < 0:
            raise Killed

    def _check_write(self, verb: str, kind: Resource | None, name: str, body: Object) -> None:
        world = self.world
        if verb == "create" and kind is JOBS:
            self._check_new_job(name)
        if verb == "patch" and not body["spec"]["suspend"]:
            assert world.jobs[name].queue is None, "what Kueue holds is Kueue's"
        if verb == "delete" and kind in {CLAIMS, TRAININGS} and self._is_only_copy():
            spec = world.training.run().spec
            assert spec is not None
            assert world.is_stored or spec.cancel is not None, "what is trained is not lost"
        if verb == "status":
            status = LoRATrainingStatus.model_validate(body)
            is_completed = is_terminal(status) and status.phase is Phase.COMPLETED
            assert world.is_stored or not is_completed, "Completed means stored"

    def _check_new_job(self, name: str) -> None:
        world = self.world
        assert name not in world.made, "no Job is made twice"
        if name == TIDY:
            assert world.is_ephemeral, "only that leaves a copy"
            assert is_terminal(world.training.run().status), "the copy may still be needed"
        else:
            beside = "nothing is uploaded" if name in {UPLOAD, PARTIAL} else "no Job is made"
            assert not world.live, f"{beside} beside a pod"

    @rule()
    def the_lease_moves_on(self) -> None:
        self._lead()

    @precondition(lambda self: self.world.is_there)
    @rule(kind=st.sampled_from(KINDS), steps=st.integers(0, 4), is_meddled_with=st.booleans())
    def a_standby_takes_over_that_is_late(
        self, kind: Resource, steps: int, *, is_meddled_with: bool
    ) -> None:
        """The hand-over that chance rarely finds: the successor never heard of what was done."""
        self.a_watch_falls_behind(kind)
        self._work(steps)
        if is_meddled_with:
            self.somebody_deletes_the_job()
            self.world.control()
            for pod in self.world.live:
                self.world.step(pod)
            self.world.control()
        self._lead()
        self.operator_looks(None)

    # Its watches.

    @rule(kind=st.sampled_from(KINDS))
    def a_watch_falls_behind(self, kind: Resource) -> None:
        if kind not in self.late:
            self._deliver(kind)
        self.late.add(kind)

    @rule(kind=st.sampled_from(KINDS))
    def a_watch_catches_up(self, kind: Resource) -> None:
        self._deliver(kind)
        self.late.discard(kind)

    @rule(kind=st.sampled_from(KINDS))
    def a_watch_begins_anew(self, kind: Resource) -> None:
        """With a list, and without a word about what vanished since the last one."""
        there = self.api.all(kind)
        self.ghosts |= gone(self.cache, kind, there) | gone(self.standby, kind, there)
        self.a_watch_catches_up(kind)

    @rule()
    def the_sweeper_evicts_ghosts(self) -> None:
        for kind in KINDS:
            for cache in (self.cache, self.standby):
                cache.evict(kind, gone(cache, kind, self.api.all(kind)))
        self.ghosts.clear()

    def whoever_holds_jobs_back_lets_them_go(self) -> None:
        self.late.clear()
        self.the_sweeper_evicts_ghosts()
        super().whoever_holds_jobs_back_lets_them_go()
        spec = self.world.training.run().spec
        if spec is not None and not spec.suspend:
            for name in self.world.jobs:
                self.world.set_suspended(name, suspended=False)

    def teardown(self) -> None:
        try:
            self.late.clear()
            self.the_sweeper_evicts_ghosts()
            super().teardown()
        finally:
            self.loop.close()


TestARunsLifeSeenLate = ARunsLifeSeenLate.TestCase
TestARunsLifeSeenLate.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("is_meddled_with", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3, 5])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_a_successor_that_is_behind_repeats_nothing_and_loses_nothing(
    kind: Resource, steps: int, *, is_meddled_with: bool
) -> None:
    """The hand-overs of the machine's rule, each for certain."""
    life = ARunsLifeSeenLate()
    life.begin(
        queued=False,
        retries=1,
        memory=False,
        workspace="Delete",
        ttl=1000,
        kind=WorkspaceType.CLAIM,
        has_budget=False,
    )
    life.a_standby_takes_over_that_is_late(kind, steps, is_meddled_with=is_meddled_with)
    life.teardown()
    assert is_terminal(life.world.training.run().status)
