"""A Job that has no pod, and nobody who says why: what is known is told, and where to look."""

from datetime import timedelta

import pytest
from tests.builders import NOW, AJob, a_job, a_pod
from tests.sights import ASight, seen

from lora_api.reasons import Reason
from lora_api.status import ConditionType, LoRATrainingStatus, Phase
from lora_operator.rules.pod_creation import LONGEST_BACK_OFF, UNEXPLAINED

MOMENT = timedelta(seconds=1)
LONG = timedelta(days=3)
UNNOTICED = AJob(status={})
NOTICED = AJob(status={"startTime": "2026-11-22T12:00:00Z"})


def waiting(job: AJob = UNNOTICED) -> ASight:
    """A run whose Job has had no pod yet, which is written down."""
    return seen().with_job(job).settled()


def reason_after(sight: ASight, waited: timedelta) -> str:
    decision = sight.decide(now=NOW + waited)
    status = decision.status or sight.observed.run.status
    return running_reason(status)


def running_reason(status: LoRATrainingStatus) -> str:
    return {c.type: c.reason for c in status.conditions}[ConditionType.RUNNING]


def test_a_pod_that_is_missing_for_minutes_is_told_of_and_not_before() -> None:
    assert reason_after(waiting(), UNEXPLAINED - MOMENT) == Reason.POD_PENDING
    assert reason_after(waiting(), UNEXPLAINED) == Reason.POD_MISSING


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (UNNOTICED, ("has not even taken note", "get lease kube-controller-manager")),
        (NOTICED, ("knows the Job and has made none", "log of kube-controller-manager")),
        (a_job(), ("counts 1 active", "batch.kubernetes.io/job-name=anna-train")),
    ],
)
def test_what_is_known_is_said_with_where_to_look_and_what_would_end_it(
    job: AJob, says: tuple[str, ...]
) -> None:
    decision = waiting(job).decide(now=NOW + UNEXPLAINED)
    assert decision.status is not None
    assert decision.status.phase is Phase.PENDING
    message = decision.status.message or ""
    for part in (*says, "since 2026-11-22 12:00 UTC", "goes on by itself", "spec.cancel"):
        assert part in message
    (event,) = decision.events
    assert (event.kind, event.reason, event.message) == ("Warning", Reason.POD_MISSING, message)


def test_it_is_said_once_and_the_run_is_not_given_up() -> None:
    sight = waiting()
    told = sight.after(sight, now=NOW + UNEXPLAINED)
    decision = told.decide(now=NOW + LONG)
    assert (decision.status, decision.events, decision.actions) == (None, (), ())
    assert decision.revisit_at is not None


def test_a_warning_says_more_than_that_there_is_none() -> None:
    sight = waiting().with_job(UNNOTICED, warning="exceeded quota: gpus")
    assert reason_after(sight, UNEXPLAINED) == Reason.POD_CREATION_REFUSED


def test_once_there_is_a_pod_it_is_forgotten() -> None:
    sight = waiting()
    told = sight.after(sight, now=NOW + UNEXPLAINED)
    assert reason_after(told.with_pods(a_pod().placed()), UNEXPLAINED) == Reason.POD_STARTING


def test_after_a_failed_attempt_the_job_controllers_own_pause_comes_first() -> None:
    failed = seen().with_job(NOTICED).with_pods(a_pod().ended(1, "boom")).settled()
    gone = failed.with_pods().settled()
    pause = UNEXPLAINED + LONGEST_BACK_OFF
    assert reason_after(gone, pause - MOMENT) == Reason.RETRYING
    assert reason_after(gone, pause) == Reason.POD_MISSING


def test_a_wait_for_something_else_before_the_pod_was_gone_does_not_count() -> None:
    waited = seen().with_job(NOTICED).with_pods(a_pod().unschedulable("no node")).settled()
    gone = waited.with_pods().after(waited.with_pods(), now=NOW + LONG / 100)
    assert reason_after(gone, LONG / 100 + LONGEST_BACK_OFF) == Reason.RETRYING
