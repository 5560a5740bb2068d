"""The operator killed between each two consecutive writes of a run's life; the next one finishes.

What a point is, and what must be the same in the end, says theatre.py. The first life is played
without controllers, so that each of its states lasts; the others need the real ones.
"""

import uuid
from pathlib import Path

import pytest
from tests.api.kept_connection import KeptApiServer
from tests.api.operator_process import eventually
from tests.api.real_stage import RealStage
from tests.api.theatre import Script, Theatre
from tests.builders import APod, a_training
from tests.results import a_bad_result, a_good_result

from lora_api.reasons import Reason
from lora_cluster.light import LightCluster
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS

pytestmark = pytest.mark.api
LONG_AGO = "2026-01-01T00:00:00Z"
NOT_STORED = a_bad_result(Reason.UPLOAD_FAILED, "s3://models does not answer.", retryable=True)


@pytest.fixture
def theatre(light_cluster: LightCluster, tmp_path: Path) -> Theatre:
    api = KeptApiServer(light_cluster.kubeconfig)
    return Theatre(
        light_cluster, tmp_path, api, lambda: api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    )


def until_it_trains(stage: RealStage) -> None:
    """The way to a trainer at work, which the first life shows."""
    stage.running_pod()
    stage.is_in("Starting", "Running")


def suspended_and_resumed(stage: RealStage) -> None:
    first = stage.present_pod()
    stage.patch({"suspend": True})
    stage.is_leaving(first)
    eventually(lambda: stage.job()["spec"]["suspend"], "the Job is suspended")
    stage.end(first, 143)
    stage.is_in("Suspended", "Suspended")
    stage.patch({"suspend": False})
    second = stage.running_pod(but=first.name)
    stage.is_in("Starting", "Running")
    stage.end(second, 0, a_good_result())
    stage.is_in("Completed")


def cancelled(stage: RealStage) -> None:
    pod = stage.present_pod()
    stage.patch({"cancel": {}})
    stage.is_leaving(pod)
    stage.end(pod, 143)
    stage.is_in("Cancelled")
    stage.is_empty_of(JOBS, PODS, CLAIMS)


def cancelled_with_its_partial_lora(stage: RealStage) -> None:
    pod = stage.present_pod()
    stage.patch({"cancel": {"keepPartial": True}})
    stage.is_leaving(pod)
    stage.end(pod, 143)
    stage.end(stage.running_pod(job="anna-partial"), 0, a_good_result())
    stage.is_in("Cancelled")
    stage.is_empty_of(JOBS, PODS, CLAIMS)


def tidied_up(stage: RealStage) -> None:
    stage.end(stage.present_pod(), 65, a_bad_result())
    stage.is_in("Failed")
    stage.end(stage.running_pod(job="anna-tidy"), 0, a_good_result())
    eventually(lambda: "workspaceCopyRemovedAt" in stage.status, "it is written down")
    stage.is_empty_of(JOBS, PODS)


def stored_at_the_second_try(stage: RealStage) -> None:
    stage.end(stage.present_pod(), 76, NOT_STORED)
    stage.end(next_upload(stage, tries=0), 76, NOT_STORED)
    stage.end(next_upload(stage, tries=1), 0, a_good_result())
    stage.is_in("Completed")


def next_upload(stage: RealStage, *, tries: int) -> APod:
    """The pod of the next try to store, once so many have failed and the hour is over."""
    stage.is_in("Uploading", "UploadFailed")
    eventually(lambda: stage.status["upload"]["tries"] == tries, "the last try is counted")
    eventually(
        lambda: len(stage.api.list(JOBS, stage.namespace)) == 1, "the last try is cleared away"
    )
    due = {"upload": {"tries": tries, "nextTryAt": LONG_AGO}}
    stage.api.patch_status(TRAININGS, stage.namespace, stage.name, due)
    return stage.running_pod(job="anna-upload")


def tried_with_more_memory(stage: RealStage) -> None:
    first = stage.present_pod()
    stage.set_pod(first.ended(137, "", "OOMKilled"))
    second = stage.running_pod(job="anna-train-2")
    stage.is_in("Starting", "Running")
    stage.end(second, 0, a_good_result())
    stage.is_in("Completed")


def deleted_while_it_trains(stage: RealStage) -> None:
    until_it_trains(stage)
    pod = stage.present_pod()
    stage.api.delete(TRAININGS, stage.namespace, stage.name)
    stage.is_leaving(pod)
    stage.end(pod, 143)
    stage.is_empty_of(TRAININGS, JOBS, PODS, CLAIMS)


def cleared_away_after_its_end(stage: RealStage) -> None:
    stage.end(stage.present_pod(), 0, a_good_result())
    stage.is_empty_of(TRAININGS, JOBS, PODS, CLAIMS)


LIVES = {
    "suspended and resumed": Script(
        training=a_training(), begin=until_it_trains, live=suspended_and_resumed
    ),
    "cancelled": Script(
        training=a_training().with_spec("retention.jobSeconds", 0),
        begin=until_it_trains,
        live=cancelled,
    ),
    "cancelled with its partial LoRA": Script(
        training=a_training().with_spec("retention.jobSeconds", 0),
        begin=until_it_trains,
        live=cancelled_with_its_partial_lora,
    ),
    "tidied up": Script(
        training=a_training()
        .with_spec("workspace.type", "Ephemeral")
        .with_spec("retention.jobSeconds", 0),
        begin=until_it_trains,
        live=tidied_up,
    ),
    "stored at the second try": Script(
        training=a_training().with_retries(0), begin=until_it_trains, live=stored_at_the_second_try
    ),
    "tried with more memory": Script(
        training=a_training().with_memory("3Gi").with_spec("resources.memoryOnRetry", "5Gi"),
        begin=until_it_trains,
        live=tried_with_more_memory,
    ),
    "deleted while it trains": Script(training=a_training(), live=deleted_while_it_trains),
    "cleared away after its end": Script(
        training=a_training().with_spec("retention", {"jobSeconds": 1, "ttlSeconds": 3}),
        begin=until_it_trains,
        live=cleared_away_after_its_end,
    ),
}


def test_killed_after_any_write_of_a_life_with_a_crash_in_it_it_ends_the_same(
    theatre: Theatre,
) -> None:
    theatre.each_point_ends_the_same(Script(training=a_training(), live=RealStage.live))


@pytest.mark.parametrize("life", LIVES)
def test_killed_after_any_write_it_ends_the_same(real_theatre: Theatre, life: str) -> None:
    real_theatre.each_point_ends_the_same(LIVES[life])
