"""Somebody edits what belongs to a run: the run ends as its user asked all the same.

A module of its own because only the real controllers show what such an edit does to a Job or claim.
"""

import pytest
from tests.api.operator_process import Object, eventually
from tests.api.real_stage import MERGE, NewStage, RealStage
from tests.builders import a_training
from tests.results import a_good_result

from lora_operator.kube.resources import CLAIMS, JOBS, PODS, Resource
from lora_operator.labels import MANAGED_BY_LABEL, RUN_LABEL, RUN_UID_LABEL

pytestmark = pytest.mark.api
JOB, CLAIM = (JOBS, "anna-train"), (CLAIMS, "anna-workspace")
BARE: Object = {
    "metadata": {"labels": {MANAGED_BY_LABEL: None, RUN_LABEL: None, RUN_UID_LABEL: None}}
}
MORE: Object = {"metadata": {"labels": {"team": "b"}, "annotations": {"note": "mine"}}}
EDITS: dict[str, tuple[tuple[Resource, str], Object]] = {
    "the labels by which its Job is watched are taken off": (JOB, BARE),
    "the labels by which its claim is watched are taken off": (CLAIM, BARE),
    "its Job gets labels and annotations of somebody's own": (JOB, MORE),
    "its claim gets labels and annotations of somebody's own": (CLAIM, MORE),
    "its Job is to be removed as soon as it has ended": (
        JOB,
        {"spec": {"ttlSecondsAfterFinished": 0}},
    ),
    "its Job's retries and deadline are changed": (
        JOB,
        {"spec": {"backoffLimit": 0, "activeDeadlineSeconds": 100_000}},
    ),
}


@pytest.mark.parametrize("sentence", EDITS)
def test_a_run_completes_and_leaves_nothing_though(sentence: str, new_stage: NewStage) -> None:
    (resource, name), edit = EDITS[sentence]
    stage = new_stage(a_training().with_spec("retention.jobSeconds", 0))
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.api.request("PATCH", resource.path(stage.namespace, name), edit, MERGE)
    stage.end(pod, 0, a_good_result())
    status = stage.is_in("Completed")
    assert status["attempts"] == 1
    assert status["artifact"]["uri"] == "s3://models/anna/model.safetensors"
    stage.is_empty_of(JOBS, PODS, CLAIMS)


def test_a_claim_that_is_deleted_under_its_pod_stays_until_that_has_ended(
    new_stage: NewStage,
) -> None:
    stage = new_stage()
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.api.request("DELETE", CLAIMS.path(stage.namespace, "anna-workspace"))
    assert stage.has(CLAIMS) == []
    stage.end(pod, 0, a_good_result())
    assert stage.is_in("Completed")["attempts"] == 1
    assert stage.has(JOBS) == ["anna-train"]


def test_labels_are_put_back_on_a_job_once_and_not_fought_over(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.running_pod()
    stage.is_in("Starting", "Running")
    other = stage.beside("ben")

    def strip(name: str) -> None:
        stage.api.request("PATCH", JOBS.path(stage.namespace, name), BARE, MERGE)

    def is_labelled(of: RealStage) -> bool:
        return RUN_UID_LABEL in of.job()["metadata"]["labels"]

    strip("anna-train")
    eventually(lambda: is_labelled(stage), "they are put back")
    strip("anna-train")
    # What is heard of later is looked at later.
    strip("ben-train")
    eventually(lambda: is_labelled(other), "the other's are put back")
    assert not is_labelled(stage)
