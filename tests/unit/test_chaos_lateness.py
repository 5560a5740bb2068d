"""What the storm calls an untrue status, and how long it calls it late."""

import pytest
from kubernetes import client
from tests.chaos.clock import has_started
from tests.chaos.lateness import Lateness, Sight, untruth

TRUE = {
    "a run that trains": Sight(phase="Training", jobs_going=1, pods_alive=1, is_training=True),
    "a run that waits for its next attempt": Sight(phase="Pending", jobs_going=1),
    "a run whose pod is taken away keeps its phase": Sight(
        phase="Training", jobs_going=1, pods_alive=1
    ),
    "a run that has ended with its Jobs": Sight(phase="Completed", jobs_finished=2),
    "a run whose upload is repeated within the hour": Sight(
        phase="Uploading", jobs_finished=1, stores_later=True
    ),
    "a suspended run": Sight(phase="Suspended", held_back=True, jobs_going=1),
    "a run that is being suspended": Sight(
        phase="Training", held_back=True, jobs_going=1, pods_alive=1
    ),
    "an upload is not held back": Sight(
        phase="Uploading", held_back=True, jobs_finished=1, jobs_going=1, stores_later=True
    ),
    "a run that is being cancelled": Sight(
        phase="Training", cancelled=True, jobs_going=1, pods_alive=1
    ),
}
UNTRUE = {
    "its Jobs have ended": Sight(phase="Training", jobs_finished=1),
    "it says it has ended, and a Job goes on": Sight(
        phase="Completed", jobs_finished=1, jobs_going=1
    ),
    "it says Suspended, and its trainer runs": Sight(
        phase="Suspended", jobs_going=1, pods_alive=1, is_training=True
    ),
    "it says Training, and has no pod": Sight(phase="Training", jobs_going=1),
    "it was cancelled, and nothing of it runs": Sight(phase="Pending", cancelled=True),
    "it was suspended, and has no pod": Sight(phase="Pending", held_back=True, jobs_going=1),
}


@pytest.mark.parametrize("sentence", TRUE)
def test_it_is_true_of(sentence: str) -> None:
    assert untruth(TRUE[sentence]) is None


@pytest.mark.parametrize("sentence", UNTRUE)
def test_it_is_untrue_where(sentence: str) -> None:
    assert untruth(UNTRUE[sentence]) == sentence


TOLD = Sight(phase="Completed", jobs_finished=1)
NOT_TOLD = Sight(phase="Training", jobs_finished=1)
PODLESS = Sight(phase="Training", jobs_going=1)
COURSES: dict[str, tuple[list[Sight], float | None]] = {
    "a status that is true at once": ([TOLD, TOLD], None),
    "a status that is true 20 s later": ([NOT_TOLD, NOT_TOLD, NOT_TOLD, TOLD], 20),
    "a status that never is": ([NOT_TOLD] * 4, 30),
    "two delays are two": ([NOT_TOLD, NOT_TOLD, TOLD, NOT_TOLD, NOT_TOLD], 10),
    "another untruth begins anew": ([PODLESS, PODLESS, NOT_TOLD, NOT_TOLD], 10),
}


@pytest.mark.parametrize("sentence", COURSES)
def test_it_is_told_how_late_is(sentence: str) -> None:
    looks, expected = COURSES[sentence]
    lateness = Lateness()
    for number, sight in enumerate(looks):
        lateness.look(10.0 * number, {"anna": sight})
    delay = lateness.longest.get("anna")
    assert (delay.seconds if delay is not None else None) == expected


def test_time_in_which_nobody_could_be_told_does_not_count() -> None:
    lateness = Lateness()
    lateness.look(0, {"anna": NOT_TOLD})
    lateness.excuse(25)
    lateness.look(30, {"anna": NOT_TOLD})
    assert lateness.longest["anna"].seconds == 5


def test_a_run_is_called_late_once() -> None:
    lateness = Lateness()
    late = [lateness.look(now, {"anna": NOT_TOLD}) for now in (0.0, 20.0, 31.0, 50.0)]
    assert late == [[], [], ["anna"], []]


def _replica(restarts: int, **state: object) -> client.V1Pod:
    container = client.V1ContainerStatus(
        name="operator",
        image="",
        image_id="",
        ready=False,
        restart_count=restarts,
        state=client.V1ContainerState(**state),
    )
    return client.V1Pod(status=client.V1PodStatus(container_statuses=[container]))


REPLICAS = {
    "runs": (_replica(0, running=client.V1ContainerStateRunning()), True),
    "has ended by itself": (_replica(0, terminated={"exit_code": 1}), True),
    "is held back after it ended by itself": (_replica(1, waiting={"reason": "Back"}), True),
    "was not started yet": (_replica(0, waiting={"reason": "ContainerCreating"}), False),
    "has no node": (client.V1Pod(status=client.V1PodStatus()), False),
}


@pytest.mark.parametrize("sentence", REPLICAS)
def test_no_operator_is_an_excuse_only_where_none_was_started(sentence: str) -> None:
    pod, expected = REPLICAS[sentence]
    assert has_started(pod) == expected
