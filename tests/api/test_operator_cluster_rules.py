"""What Kubernetes' own rules refuse is told in the run's conditions until they allow it."""

import pytest
from tests.api.operator_process import ApiServer, Object, Operator
from tests.api.real_stage import NewStage
from tests.api.stage import Stage
from tests.builders import a_training

pytestmark = pytest.mark.api

PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"


@pytest.fixture
def new_stage(controlled_api: ApiServer, controlled_operator: Operator) -> NewStage:
    """Makes stages with the real controllers on them."""
    del controlled_operator  # has to run
    return NewStage(controlled_api)


def a_limit_range(memory: str) -> Object:
    limit = {"type": "Container", "max": {"memory": memory}}
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "small"},
        "spec": {"limits": [limit]},
    }


def test_a_limit_range_that_refuses_the_pod_is_quoted_until_it_allows_it(
    controlled_api: ApiServer, new_stage: NewStage
) -> None:
    # Held back, so that there is no pod before there is the range.
    stage = new_stage(a_training().suspended())
    stage.is_in("Suspended")
    path = f"/api/v1/namespaces/{stage.namespace}/limitranges"
    controlled_api.request("POST", path, a_limit_range("4Gi"))
    stage.patch({"suspend": False})
    message = is_refused(stage)
    assert "maximum memory usage per Container is 4Gi" in message
    controlled_api.request("DELETE", f"{path}/small")
    stage.is_in("Pending", "PodPending")


def test_a_priority_class_that_does_not_exist_is_named_until_it_does(
    controlled_api: ApiServer, new_stage: NewStage
) -> None:
    name = "not-made-yet"
    stage = new_stage(a_training().with_spec("priorityClassName", name))
    message = is_refused(stage)
    assert f"no PriorityClass with name {name} was found" in message
    body = {"metadata": {"name": name}, "value": 7}
    controlled_api.request("POST", PRIORITIES, body)
    stage.is_in("Pending", "PodPending")
    controlled_api.request("DELETE", f"{PRIORITIES}/{name}")


def is_refused(stage: Stage) -> str:
    """What the run says of a pod that is not made."""
    status = stage.is_in("Pending", "PodCreationRefused")
    reasons = {condition["type"]: condition["reason"] for condition in status["conditions"]}
    assert reasons["Running"] == "PodCreationRefused"
    message: str = status["message"]
    return message
