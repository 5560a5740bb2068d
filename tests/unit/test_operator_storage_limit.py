"""A pod that its node evicted for what it wrote itself is not mistaken for one that was taken away.

The messages are those of Kubernetes' pkg/kubelet/eviction (helpers.go).
"""

import pytest
from tests.builders import APod, a_job, a_pod, a_training
from tests.results import an_interruption
from tests.sights import ASight, seen

from lora_api.reasons import Reason
from lora_api.status import LoRATrainingStatus, Phase
from lora_operator.state.decision import Action

IN_POD = a_training().with_spec("workspace.type", "Ephemeral").with_spec("workspace.size", "20Gi")
KILLED = "Container trainer for pod studio/anna-train-x1 failed with exit code 137 matching FailJob"
WORKSPACE = 'Usage of EmptyDir volume "workspace" exceeds the limit "20Gi". '
TMP = 'Usage of EmptyDir volume "tmp" exceeds the limit "2Gi". '
LIMIT_RANGE = 'Container trainer exceeded its local ephemeral storage limit "1Gi". '
RUNNING = seen(IN_POD).with_job().with_pods(a_pod().running()).settled()


def judged(pod: APod) -> ASight:
    """What is seen once the Job has judged the pod by its exit code."""
    return RUNNING.with_job(a_job().failed("PodFailurePolicy", KILLED)).with_pods(pod)


def status_of(sight: ASight) -> LoRATrainingStatus:
    status = sight.decide().status
    assert status is not None
    return status


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (WORKSPACE, ("spec.workspace.size", "40Gi", "20Gi")),
        (TMP, ("/tmp", "2Gi", "/workspace")),
        (LIMIT_RANGE, ("LimitRange", "1Gi", "spec.workspace.size", "2Gi")),
    ],
)
def test_the_run_fails_once_and_names_the_limit_and_what_would_do(
    message: str, says: tuple[str, ...]
) -> None:
    status = status_of(judged(a_pod().ended(137).evicted(message)))
    assert status.phase is Phase.FAILED
    assert status.job_number is None
    assert status.failure is not None
    assert status.failure.reason == Reason.STORAGE_LIMIT_EXCEEDED
    assert not status.failure.retryable
    assert [part for part in says if part not in status.failure.message] == []
    assert status.recent_attempts[-1].reason == Reason.STORAGE_LIMIT_EXCEEDED


def test_a_trainer_that_answers_in_time_does_not_have_its_job_begin_again_for_ever() -> None:
    pod = a_pod().ended(143, an_interruption(step=40)).evicted(WORKSPACE)
    sight = RUNNING.with_pods(pod, a_pod().named("anna-train-x2").aged(1).running())
    status = status_of(sight)
    assert status.phase is Phase.FAILED
    assert status.failure is not None
    assert status.failure.reason == Reason.STORAGE_LIMIT_EXCEEDED
    assert Action.DELETE_JOB in sight.settled().decide().actions


def test_a_node_without_room_takes_its_pods_away_and_ends_no_run() -> None:
    low = "The node was low on resource: ephemeral-storage. "
    pod = a_pod().ended(137).evicted(low).disrupted("TerminationByKubelet", low)
    assert status_of(RUNNING.with_pods(pod)).phase is Phase.PENDING


def test_whoever_claims_to_be_interrupted_and_kills_itself_gets_no_further_job() -> None:
    status = status_of(judged(a_pod().ended(137, an_interruption(step=1))))
    assert status.phase is Phase.FAILED


@pytest.mark.parametrize(
    "pod",
    [
        a_pod().ended(137).being_deleted(),
        a_pod().ended(137, an_interruption(step=1)).being_deleted(),
        a_pod().ended(137, "", "ContainerStatusUnknown"),
        a_pod().ended(137).disrupted("DeletionByTaintManager", "node lost"),
    ],
)
def test_a_pod_that_was_taken_away_goes_on_with_another_job(pod: APod) -> None:
    status = status_of(judged(pod))
    assert (status.phase, status.job_number) == (Phase.PENDING, 2)
