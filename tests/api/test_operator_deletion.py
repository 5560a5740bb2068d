"""Runs and namespaces are deleted while an operator lives: it stands in nobody's way.

A module of its own because the real controllers decide in which order things go; that nothing hangs
while no operator lives is shown by `test_operator_real_jobs` and on the whole cluster.
"""

import urllib.error

import pytest
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.real_stage import MERGE, NewStage, RealStage

from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS

pytestmark = pytest.mark.api
HOLD = {"metadata": {"finalizers": ["example.com/in-use"]}}
RELEASE: dict[str, object] = {"metadata": {"finalizers": []}}


def path_of(stage: RealStage) -> str:
    return TRAININGS.path(stage.namespace, stage.name)


def exists(api: ApiServer, path: str) -> bool:
    try:
        api.request("GET", path)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def test_a_namespace_goes_with_all_its_runs_and_leaves_the_operator_in_peace(
    new_stage: NewStage, controlled_operator: Operator
) -> None:
    trains = new_stage()
    api, namespace = trains.api, f"/api/v1/namespaces/{trains.namespace}"
    pod = trains.running_pod()
    trains.is_in("Starting", "Running")
    held = trains.beside("held")
    trains.beside("waits")
    api.request("PATCH", path_of(held), HOLD, MERGE)
    known = controlled_operator.metric("lora_operator_cached_objects")
    api.request("DELETE", namespace)
    trains.is_leaving(pod)
    trains.end(pod, 143)
    eventually(
        lambda: (
            [run["metadata"]["name"] for run in api.list(TRAININGS, held.namespace)] == ["held"]
        ),
        "all others go",
    )
    held.is_empty_of(JOBS, PODS, CLAIMS)
    api.request("PATCH", path_of(held), RELEASE, MERGE)
    eventually(lambda: not exists(api, namespace), "the namespace goes")
    eventually(
        lambda: controlled_operator.metric("lora_operator_cached_objects") <= known - 8,
        "what was in it is forgotten",
    )
    # Nothing is left to be looked at: who went in the middle of a look is not tried for ever.
    eventually(lambda: controlled_operator.metric("lora_operator_queue_depth") == 0, "all is quiet")
    assert "reconcile broke" not in [line["event"] for line in controlled_operator.events()]


def test_a_run_that_somebody_elses_finalizer_holds_is_left_as_it_is(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.api.request("PATCH", path_of(stage), HOLD, MERGE)
    stage.api.request("DELETE", path_of(stage))
    version = stage.version
    stage.api.request(
        "DELETE", JOBS.path(stage.namespace, "anna-train"), {"propagationPolicy": "Background"}
    )
    pod = stage.present_pod()
    stage.is_leaving(pod)
    stage.end(pod, 143)
    # Another run shows that the operator has looked around since.
    stage.beside("ben")
    assert stage.has(JOBS) == ["ben-train"]
    assert stage.version == version
    stage.api.request("PATCH", path_of(stage), RELEASE, MERGE)
    eventually(lambda: not exists(stage.api, path_of(stage)), "the run goes")


def test_a_run_that_is_deleted_in_the_foreground_goes_with_its_children(
    new_stage: NewStage,
) -> None:
    stage = new_stage()
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.api.request("DELETE", path_of(stage), {"propagationPolicy": "Foreground"})
    stage.is_leaving(pod)
    stage.end(pod, 143)
    eventually(lambda: not exists(stage.api, path_of(stage)), "the run goes")
    stage.is_empty_of(JOBS, PODS, CLAIMS)
