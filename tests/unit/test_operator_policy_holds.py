"""What a run holds at its namespace's policy: as long as it has GPUs, and no longer."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.builders import JOB_UID, NOW, RUN_UID, APod, a_job, a_pod, a_training
from tests.policies import a_policy
from tests.sights import ASight, seen

from lora_api.policy_ledger import RunState
from lora_api.progress import Stage
from lora_api.status import Phase
from lora_operator.cache import Cache
from lora_operator.departures import see_off
from lora_operator.kube.resources import PODS
from lora_operator.policy.months import Month
from lora_operator.policy.space import Namespace
from lora_operator.policy.turns import Released, release
from lora_operator.policy_look import known_of, look_at, word_of
from lora_operator.state.decision import Action
from lora_operator.state.reading import read_run
from lora_operator.state.views import Observed, Permission

ONE_GPU = {
    "maxConcurrentGPUs": 1,
    "priorityClasses": [{"name": "high", "value": 50}],
    "prices": {"perGpuHour": "3.6"},
}
PRICE = Decimal("3.6")
LATER = NOW + timedelta(hours=20)


def look(space: Namespace, observed: Observed, now: datetime = NOW) -> Namespace:
    return look_at(space, observed, price=PRICE, now=now)[0]


def let_go(space: Namespace, now: datetime = NOW) -> Released:
    return release(space, now)


def bens(*, priority: str = "high") -> Observed:
    """Another user's run, just created."""
    training = a_training().named("ben").with_spec("user", "ben")
    body = training.with_spec("priorityClassName", priority).stored()
    body["metadata"]["uid"] = "uid-of-ben"
    return Observed(run=read_run(body))


def with_anna_at_work(**policy: Any) -> Namespace:  # noqa: ANN401
    space = look(Namespace(policy=a_policy(**ONE_GPU, **policy)), seen().observed)
    space = let_go(space).namespace
    assert list(space.working) == [RUN_UID]
    return space


def training() -> ASight:
    return seen().with_job().with_pods(a_pod().placed().running()).settled()


def uploading() -> ASight:
    """Anna's LoRA is trained and could not be stored: her Job is over, the upload is yet to be."""
    trained = training().with_progress(Stage.PUBLISH, 100).settled()
    failed = a_job().failed().with_failed_pods(4)
    sight = trained.with_job(failed).with_pods(a_pod().ended(76)).settled()
    assert sight.observed.run.status.phase is Phase.UPLOADING
    return sight


@pytest.mark.parametrize("preemption", ["Never", "LowerPriority"])
def test_who_only_waits_for_its_storage_has_given_its_gpus_back(preemption: str) -> None:
    space = look(with_anna_at_work(queue={"preemption": preemption}), training().observed)
    space = look(look(space, uploading().observed, LATER), bens(), LATER)
    released = let_go(space, LATER)
    assert [run.name for run in released.started] == ["ben"]
    space = look(released.namespace, uploading().observed, LATER)
    assert list(space.working) == ["uid-of-ben"]
    assert (set(space.waiting), space.preempted) == (set(), frozenset())
    entry = space.ledgers[Month.of(NOW)].runs[RUN_UID]
    assert (entry.state, entry.has_place) == (RunState.RUNNING, True)
    word = word_of(space, uploading().observed.run, None, "")
    assert (word.permission, word.cost is not None) == (Permission.GRANTED, True)


def test_who_is_trained_and_still_has_its_pod_is_no_victim() -> None:
    space = with_anna_at_work(queue={"preemption": "LowerPriority"})
    going = uploading().with_job(a_job().being_deleted()).with_pods(a_pod().placed().running())
    space = let_go(look(look(space, going.observed), bens())).namespace
    assert (set(space.working), space.preempted) == ({RUN_UID}, frozenset())


def given_up() -> ASight:
    """Anna's trainer made no progress for long, and nothing may be tried again."""
    hung = a_training().with_retries(0)
    sight = seen(hung).with_job().with_pods(a_pod().placed().running())
    sight = sight.with_progress(Stage.TRAIN, 10).settled().unmoved_for(5000).settled()
    assert sight.observed.run.status.phase is Phase.FAILED
    assert sight.observed.live_pods
    return sight


def test_who_is_given_up_keeps_its_gpus_until_its_pod_is_gone_and_pays_for_them() -> None:
    space = look(look(with_anna_at_work(), given_up().observed), bens())
    assert let_go(space).started == ()
    later = NOW + timedelta(minutes=5)
    space = look(space, given_up().observed, later)
    assert (list(space.working), let_go(space, later).started) == ([RUN_UID], ())
    word = word_of(space, given_up().observed.run, None, "")
    assert word.cost is not None
    assert word.cost.final is False
    gone = given_up().with_pods()
    space = look(space, gone.observed, later)
    entry = space.ledgers[Month.of(NOW)].runs[RUN_UID]
    assert (entry.state, entry.gpu_seconds >= 300) == (RunState.RETURNED, True)
    assert [run.name for run in let_go(space, later).started] == ["ben"]


def test_who_is_given_up_and_keeps_its_gpus_is_no_victim() -> None:
    space = with_anna_at_work(queue={"preemption": "LowerPriority"})
    space = let_go(look(look(space, given_up().observed), bens())).namespace
    assert (set(space.working), space.preempted) == ({RUN_UID}, frozenset())


def with_anna_in_the_queue() -> Namespace:
    """Ben has the only GPU, and anna waits for it."""
    space = look(Namespace(policy=a_policy(**ONE_GPU)), bens())
    space = look(let_go(space).namespace, seen().observed)
    assert (list(space.waiting), let_go(space).started) == ([RUN_UID], ())
    return space


@pytest.mark.parametrize("pods", [0, 1])
def test_a_job_that_somebody_let_go_before_its_turn_is_suspended_again(pods: int) -> None:
    going = seen().with_job().with_pods(*(a_pod().placed().running() for _ in range(pods)))
    space = look(with_anna_in_the_queue(), going.observed)
    word = word_of(space, going.observed.run, None, "1st of 1")
    decision = going.told_by_policy(word).decide()
    assert decision.actions == (Action.SUSPEND_JOB,)
    assert decision.status is not None
    assert "it is not the run's turn. 1st of 1" in (decision.status.message or "")


LEFT_ALONE: dict[str, ASight] = {
    "is over": seen().with_job(a_job().complete()),
    "is going": seen().with_job(a_job().being_deleted()),
    "is Kueue's": seen(a_training().queued_in("team")).with_job(a_job().queued_in("team")),
}


@pytest.mark.parametrize("sentence", LEFT_ALONE)
def test_a_job_is_left_alone_that(sentence: str) -> None:
    sight = LEFT_ALONE[sentence]
    word = word_of(with_anna_in_the_queue(), sight.observed.run, None, "1st of 1")
    assert word.is_in_queue
    assert Action.SUSPEND_JOB not in sight.told_by_policy(word).decide().actions


def left_behind(pod: APod, *, owner: str = JOB_UID, name: str = "anna-train") -> Cache:
    """A pod that carries the labels of anna's run, which is gone."""
    body = pod.stored()
    body["metadata"]["ownerReferences"][0] |= {"uid": owner, "name": name}
    cache = Cache()
    cache.put(PODS, body)
    return cache


REMAINS: dict[str, tuple[Cache, bool, bool]] = {
    "a pod of its Job": (left_behind(a_pod().placed().running()), True, True),
    "a pod of its Job that has ended": (left_behind(a_pod().placed().ended(0)), False, False),
    "a pod of a stranger's Job with its labels": (
        left_behind(a_pod().placed().running(), owner="x", name="mallorys"),
        False,
        False,
    ),
    "a pod of a later Job of its Job's name": (
        left_behind(a_pod().placed().running(), owner="x"),
        False,
        True,
    ),
}


@pytest.mark.parametrize("sentence", REMAINS)
def test_what_a_run_that_is_gone_still_holds_is_told_by(sentence: str) -> None:
    cache, is_held, is_held_unseen = REMAINS[sentence]
    known = known_of(training().observed, PRICE, NOW)
    for memory, expected in ((known, is_held), (replace(known, jobs=frozenset()), is_held_unseen)):
        space, still = see_off(with_anna_at_work(), {RUN_UID: memory}, cache, NOW)
        assert (list(still), list(space.working)) == (
            ([RUN_UID], [RUN_UID]) if expected else ([], [])
        )
