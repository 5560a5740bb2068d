"""A pod that its kubelet never admitted is no attempt: the run goes on, after a pause."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import NOW, APod, a_job, a_pod, a_training
from tests.sights import ASight, seen

from lora_api.reasons import Reason
from lora_api.status import Phase
from lora_operator.rules.not_admitted import MOST_JOBS, PAUSE
from lora_operator.state.decision import Action, Decision

UNHEALTHY = "Pod was rejected: Allocate failed due to no healthy devices present"


def refused(pod: APod, reason: str = "UnexpectedAdmissionError", message: str = UNHEALTHY) -> APod:
    """As the kubelet leaves a pod that it rejects."""
    status = {**pod.placed().status, "phase": "Failed", "reason": reason, "message": message}
    return replace(pod.placed(), status=status)


def failed(*pods: APod, retries: int = 3) -> ASight:
    """What is seen once a Job has no retry left."""
    job = a_job().with_failed_pods(retries + 1).failed("BackoffLimitExceeded")
    return seen(a_training().with_retries(retries)).with_job(job).with_pods(*pods)


def said(decision: Decision) -> str:
    assert decision.status is not None
    return decision.status.message or ""


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("UnexpectedAdmissionError", UNHEALTHY),
        ("OutOfnvidia.com/gpu", "Pod was rejected: Node didn't have enough resource"),
        ("NodeShutdown", "Pod was rejected: node is shutting down"),
        ("NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed"),
        ("Evicted", "Pod was rejected: The node had condition: [DiskPressure]. "),
    ],
)
def test_the_run_says_which_node_did_not_admit_it_and_when_another_job_is_made(
    reason: str, message: str
) -> None:
    decision = failed(refused(a_pod(), reason, message)).decide()
    status = decision.status
    assert status is not None
    assert status.phase is Phase.PENDING
    running = next(c for c in status.conditions if c.type == "Running")
    assert running.reason == Reason.POD_NOT_ADMITTED
    words = ("node-1", reason, "no retry", "12:05:00 UTC", f"Job 2 of at most {MOST_JOBS}")
    assert [part for part in words if part not in said(decision)] == []
    assert decision.revisit_at == NOW + PAUSE
    assert status.job_number is None


def test_the_other_job_is_made_after_the_pause() -> None:
    sight = failed(refused(a_pod()))
    later = NOW + PAUSE
    decision = sight.settled().decide(now=later)
    assert decision.status is not None
    assert decision.status.job_number == 2
    after = sight.settled().with_status(decision.status)
    assert Action.CREATE_JOB in after.decide(now=later).actions


def test_who_suspends_meanwhile_does_not_wait_for_the_pause() -> None:
    sight = failed(refused(a_pod())).settled()
    decision = sight.of(a_training().suspended()).decide()
    assert decision.status is not None
    after = sight.of(a_training().suspended()).with_status(decision.status)
    assert after.settled().observed.run.status.phase is Phase.SUSPENDED


def test_one_pod_that_never_ran_gives_its_retry_back() -> None:
    crash = a_pod().named("anna-train-x2").aged(1).ended(1, "boom")
    status = failed(refused(a_pod()), crash, retries=1).decide().status
    assert status is not None
    assert status.phase is Phase.PENDING


def test_a_run_whose_pods_all_ran_fails_as_ever() -> None:
    status = failed(a_pod().ended(1, "boom")).decide().status
    assert status is not None
    assert status.phase is Phase.FAILED


def test_the_jobs_are_bounded() -> None:
    sight = failed(refused(a_pod()))
    run = replace(sight.observed.run, job_number=MOST_JOBS)
    status = replace(sight, observed=replace(sight.observed, run=run)).decide().status
    assert status is not None
    assert status.phase is Phase.FAILED
    assert status.failure is not None
    assert (status.failure.reason, status.failure.retryable) == (Reason.POD_NOT_ADMITTED, True)


def test_a_refusal_is_not_announced_as_the_end_while_its_job_lasts() -> None:
    job = a_job().with_failed_pods(4)
    decision = seen().with_job(job).with_pods(refused(a_pod())).decide(now=NOW + timedelta(1))
    assert decision.status is not None
    assert decision.status.phase is Phase.PENDING
    assert "It is tried again." in said(decision)
