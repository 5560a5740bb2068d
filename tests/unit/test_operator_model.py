"""Random histories of a run, its cluster and its user: the invariants hold after each step.

A module of its own because here nobody says what is to be seen: hypothesis drives a small world in
which the decisions are carried out, and the operator dies between any two of its acts.
"""

from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.builders import a_training
from tests.world import UPLOAD, APodInTheWorld, World

from lora_api.exit_codes import ExitCode
from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, LoRATrainingStatus, Phase
from lora_api.training import WorkspaceType
from lora_operator.rules.decide import decide
from lora_operator.state.decision import Action, Decision, is_terminal
from lora_operator.state.last_codes import KILLED
from lora_operator.state.phase import phase_of

CODES = (1, 65, 70, 75, 76, KILLED, int(ExitCode.INTERRUPTED))


def is_new_on_its_node(pod: APodInTheWorld) -> bool:
    """Whether its kubelet has not decided about it yet."""
    view = pod.view
    return view.node is not None and not view.container.running and not view.deleting


class ARunsLife(RuleBasedStateMachine):
    """Everybody acts at random; the operator looks now and then, and may die while it acts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.ended: LoRATrainingStatus | None = None
        self.attempts = 0
        self.is_harmed = False
        """Whether anything happened that a run may fail from."""
        self.was_too_large = False
        """Whether the operator wrote down that a pod went over a size limit."""
        self.was_seen_trained = False
        """Whether the operator was told of a finished LoRA that still lies in the workspace."""

    @initialize(
        queued=st.booleans(),
        retries=st.integers(0, 2),
        memory=st.booleans(),
        workspace=st.sampled_from(["Delete", "Retain", "RetainOnFailure"]),
        ttl=st.sampled_from([None, None, 1000]),
        kind=st.sampled_from(list(WorkspaceType)),
        has_budget=st.booleans(),
    )
    def begin(
        self,
        *,
        queued: bool,
        retries: int,
        memory: bool,
        workspace: str,
        ttl: int | None,
        kind: WorkspaceType,
        has_budget: bool,
    ) -> None:
        self.world.has_budget = has_budget
        training = a_training().with_retries(retries).with_spec("workspace.type", str(kind))
        training = training.with_spec("retention", {"workspace": workspace, "jobSeconds": 60})
        if ttl is not None:
            training = training.with_spec("retention.ttlSeconds", ttl)
        if memory:
            training = training.with_spec("resources.memoryOnRetry", "16Gi")
        self.world.training = training.queued_in("gpus") if queued else training

    # The operator.

    @precondition(lambda self: self.world.is_there)
    @rule(dies_after=st.sampled_from([None, None, None, 0, 1]))
    def operator_looks(self, dies_after: int | None) -> None:
        """One look; a killed operator has done some of the acts and written nothing."""
        self.world.refused = frozenset()
        decision = decide(self.world.observe(), self.world.now)
        for number, action in enumerate(decision.actions):
            if number == dies_after:
                return
            self._check(action)
            self.world.ask_for(action)
            if self.world.refused:
                break
        sight = self.world.observe()
        if decision.actions:
            decision = decide(sight, self.world.now)
        self.world.refused = frozenset()
        if dies_after is not None or not self.world.is_there:
            return
        self._write(decision)
        told = sight.progress.stage if sight.progress is not None else None
        self.was_seen_trained |= told in {Stage.SAVE, Stage.SAMPLE, Stage.PUBLISH}

    def _check(self, action: Action) -> None:
        world = self.world
        if action is Action.CREATE_JOB:
            assert world.observe().run.job_name not in world.made, "no Job is made twice"
            assert not self.was_too_large, "another one would end the same way"
            assert not world.live, "no Job is made beside a pod"
        if action in {Action.CREATE_UPLOAD_JOB, Action.CREATE_PARTIAL_JOB}:
            assert not world.live, "nothing is uploaded beside a pod"
        if action is Action.CREATE_TIDY_JOB:
            assert world.is_ephemeral, "only that leaves a copy"
            assert is_terminal(world.training.run().status), "the copy may still be needed"
        if action is Action.RESUME_JOB:
            assert world.training.run().queue is None, "what Kueue holds is Kueue's"
        if action in {Action.DELETE_WORKSPACE, Action.DELETE_RUN} and self._is_only_copy():
            spec = world.training.run().spec
            assert spec is not None
            assert world.is_stored or spec.cancel is not None, "what is trained is not lost"

    def _is_only_copy(self) -> bool:
        """Whether the operator knows enough to keep what nobody could make again for nothing."""
        world = self.world
        self.was_seen_trained = self.was_seen_trained and world.is_trained
        return self.was_seen_trained and world.claim is not None and not world.is_stored

    def _write(self, decision: Decision) -> None:
        status = decision.status
        if status is None:
            return
        if is_terminal(status) and status.phase is Phase.COMPLETED:
            assert self.world.is_stored, "Completed means stored"
        self.world.training = self.world.training.with_status(status)
        attempts = status.recent_attempts
        self.was_too_large = any(a.reason == Reason.STORAGE_LIMIT_EXCEEDED for a in attempts)
        again = decide(self.world.observe(), self.world.now)
        leads_on = decision.revisit_at is not None and decision.revisit_at <= self.world.now
        assert again.status is None or leads_on or again.actions, "a second look writes nothing"

    # The cluster.

    @rule()
    def controllers_act(self) -> None:
        self.world.control()

    @precondition(lambda self: self.world.live)
    @rule(steps=st.integers(1, 3), data=st.data())
    def pod_goes_on(self, steps: int, data: st.DataObject) -> None:
        pod = data.draw(st.sampled_from(self.world.live))
        for _ in range(steps):
            if not pod.view.has_ended:
                self.world.step(pod)

    @precondition(lambda self: any(p.view.container.running for p in self.world.live))
    @rule(code=st.sampled_from(CODES), is_oom=st.booleans(), data=st.data())
    def pod_fails(self, code: int, is_oom: bool, data: st.DataObject) -> None:
        running = [pod for pod in self.world.live if pod.view.container.running]
        pod: APodInTheWorld = data.draw(st.sampled_from(running))
        self.is_harmed = self.is_harmed or code != ExitCode.INTERRUPTED
        if code == ExitCode.NOT_STORED and not self.world.is_trained:
            code = int(ExitCode.TRANSIENT)
        self.world.end(pod, code, "OOMKilled" if code == KILLED and is_oom else "Error")

    @precondition(lambda self: any(map(is_new_on_its_node, self.world.live)))
    @rule(data=st.data())
    def kubelet_refuses_pod(self, data: st.DataObject) -> None:
        """Nobody's fault, and no harm: a run never fails from that."""
        new = [pod for pod in self.world.live if is_new_on_its_node(pod)]
        self.world.refuse(data.draw(st.sampled_from(new)))

    @precondition(lambda self: any(p.view.container.running for p in self.world.live))
    @rule(code=st.sampled_from([KILLED, int(ExitCode.INTERRUPTED)]), data=st.data())
    def pod_outgrows_its_limit(self, code: int, data: st.DataObject) -> None:
        running = [pod for pod in self.world.live if pod.view.container.running]
        self.world.outgrow(data.draw(st.sampled_from(running)), code)
        self.is_harmed = True

    @precondition(lambda self: self.world.is_there)
    @rule(stages=st.integers(2, 4), finds_no_node=st.booleans())
    def trained_and_then_out_of_luck(self, stages: int, finds_no_node: bool) -> None:
        """A finished LoRA, and then attempts that get nowhere until nobody tries any more."""
        self._work(2 + stages)
        for _ in range(4):
            for pod in self.world.live:
                if pod.view.container.running:
                    self.world.end(pod, ExitCode.TRANSIENT)
            self.world.control()
            if finds_no_node:
                self.world.now += timedelta(seconds=3600)
                self.operator_looks(None)
            else:
                self._work(2)
        self.is_harmed = True

    def _work(self, steps: int) -> None:
        """Everybody does what is to be done, while the operator looks on."""
        self.operator_looks(None)
        self.world.control()
        for _ in range(steps):
            for pod in self.world.live:
                self.world.step(pod)
            self.operator_looks(None)

    @precondition(lambda self: self.world.live)
    @rule()
    def node_is_drained(self) -> None:
        for job in list(self.world.jobs):
            self.world.evict(job)

    @rule()
    def volume_is_lost(self) -> None:
        self.world.lose_volume()
        self.is_harmed = True

    @rule(refuses=st.booleans())
    def api_server_refuses(self, refuses: bool) -> None:
        self.world.refuses = refuses

    @rule(seconds=st.sampled_from([1, 60, 700, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)
        self.is_harmed = self.is_harmed or seconds >= 700

    @rule(suspended=st.booleans())
    def kueue_decides(self, suspended: bool) -> None:
        if self.world.training.run().queue is not None:
            self.world.set_suspended(self.world.observe().run.job_name, suspended=suspended)

    def whoever_holds_jobs_back_lets_them_go(self) -> None:
        self.kueue_decides(False)

    # The user, and people who should know better.

    @rule(suspended=st.booleans())
    def user_suspends(self, suspended: bool) -> None:
        self.world.training = self.world.training.with_spec("suspend", suspended)

    @precondition(lambda self: self.world.is_there)
    @rule()
    def user_wavers(self) -> None:
        """Suspends, and takes it back before the trainer has written its checkpoint."""
        for suspended in (True, False):
            self.user_suspends(suspended)
            self.operator_looks(None)
        self.operator_looks(None)

    @rule(keep=st.booleans())
    def user_cancels(self, keep: bool) -> None:
        self.world.training = self.world.training.cancelled(keep_partial=keep)

    @rule()
    def somebody_suspends_the_job(self) -> None:
        self.world.set_suspended(self.world.observe().run.job_name, suspended=True)

    @rule()
    def somebody_deletes_the_job(self) -> None:
        self.world.delete_job(self.world.observe().run.job_name)
        self.is_harmed = True

    @precondition(lambda self: self.ended is None)
    @rule(phase=st.sampled_from(list(Phase)))
    def somebody_writes_a_phase(self, phase: Phase) -> None:
        status = self.world.training.run().status
        if status.phase is not None:
            wrong = status.model_copy(update={"phase": phase})
            self.world.training = self.world.training.with_status(wrong)

    # What always holds.

    @invariant()
    def one_pod_at_most_writes_into_the_workspace(self) -> None:
        assert len(self.world.live) <= 1

    @invariant()
    def an_end_never_changes(self) -> None:
        status = self.world.training.run().status
        if self.ended is not None:
            tidied = {"workspace_copy_removed_at": status.workspace_copy_removed_at}
            assert status == self.ended.model_copy(update=tidied)
        elif is_terminal(status) and status.phase is not None and status.phase.is_terminal:
            self.ended = status

    @invariant()
    def attempts_never_fall(self) -> None:
        status = self.world.training.run().status
        assert (status.attempts or 0) >= self.attempts
        self.attempts = status.attempts or 0

    @invariant()
    def every_wait_has_a_reason(self) -> None:
        status = self.world.training.run().status
        if status.conditions:
            assert {c.type for c in status.conditions} == set(ConditionType)
            assert all(c.reason for c in status.conditions)
            assert status.message

    def teardown(self) -> None:
        """Left in peace, every run ends as its user asked; nothing stays behind."""
        world = self.world
        world.refuses = False
        for _ in range(80):
            self.operator_looks(None)
            if not world.is_there or (is_terminal(world.training.run().status) and not world.jobs):
                break
            self.whoever_holds_jobs_back_lets_them_go()
            world.control()
            for pod in world.live:
                world.step(pod)
            world.now += timedelta(seconds=61)
        run = world.training.run()
        assert run.spec is not None
        if not world.is_there:
            assert is_terminal(run.status)
        elif run.spec.suspend and run.spec.cancel is None and not is_terminal(run.status):
            assert run.status.phase in {Phase.SUSPENDED, Phase.UPLOADING}
            assert not world.live
        else:
            assert is_terminal(run.status), run.status.message
            assert run.status.phase == phase_of(
                {c.type: c for c in run.status.conditions}, run.status.phase
            )
            assert world.jobs == {}
        if run.status.phase is Phase.COMPLETED:
            assert world.is_stored
        if self._is_only_copy() and run.spec.cancel is None and is_terminal(run.status):
            assert world.claim is not None and not world.claim.deleting, "it is kept"
        if run.status.phase is Phase.FAILED:
            assert self.is_harmed, run.status.message
        assert UPLOAD not in world.made


TestARunsLife = ARunsLife.TestCase
TestARunsLife.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("finds_no_node", [False, True])
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_finished_lora_is_stored_when_its_attempts_run_out_of_luck(
    retries: int, stages: int, finds_no_node: bool
) -> None:
    """The history that the machine rarely finds by chance, because so many others end the run."""
    life = ARunsLife()
    life.begin(
        queued=False,
        retries=retries,
        memory=False,
        workspace="Delete",
        ttl=1000,
        kind=WorkspaceType.CLAIM,
        has_budget=False,
    )
    life.trained_and_then_out_of_luck(stages=stages, finds_no_node=finds_no_node)
    life.teardown()
    assert life.world.is_stored
