"""The operator killed after each write of a life that somebody or something holds up.

A module of its own because such lives need somebody else to play in them: Kueue, a quota, a trainer
that hangs, a crowd. What a point is, and what must be the same in the end, says theatre.py.
"""

from datetime import UTC, datetime

import pytest
from tests.api.operator_process import Object, eventually
from tests.api.real_stage import RealStage
from tests.api.theatre import Script, Theatre
from tests.builders import NOW, APod, a_training
from tests.results import a_good_result
from tests.sights import a_progress

from lora_api.progress import Progress, Stage
from lora_operator.kube.resources import CLAIMS, JOBS, PODS

pytestmark = pytest.mark.api
CROWD = ("ben", "cleo", "dora")
# Never reached: who is asked is asked through the API server.
POD_IP = "192.0.2.1"


def admitted_preempted_and_admitted_again(stage: RealStage) -> None:
    """Kueue lets the Job go, takes it back for somebody else, and lets it go again."""
    stage.is_in("Queued", "Queued")
    stage.patch_job({"suspend": False})
    first = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.patch_job({"suspend": True})
    stage.is_leaving(first)
    stage.end(first, 143)
    stage.is_in("Queued", "Queued")
    stage.patch_job({"suspend": False})
    second = stage.running_pod(but=first.name)
    stage.is_in("Starting", "Running")
    stage.end(second, 0, a_good_result())
    stage.is_in("Completed")


def evicted_because_it_hangs(stage: RealStage) -> None:
    first = stage.present_pod()
    let_speak(stage, first)
    stage.is_in("Training", "Training")
    stage.is_leaving(first)
    stage.end(first, 143)
    second = stage.running_pod(but=first.name)
    stage.is_in("Starting", "Running")
    let_speak(stage, second)
    stage.is_in("Training", "Training")
    stage.end(second, 0, a_good_result())
    stage.is_in("Completed")


def let_speak(stage: RealStage, pod: APod) -> None:
    """From now on the pod has an address, so its trainer is asked."""
    stage.set_pod(pod.running(), podIP=POD_IP, podIPs=[{"ip": POD_IP}])


def the_first_hangs(attempt: int) -> Progress:
    """All answer; the first attempt's trainer does nothing else."""
    if attempt == 0:
        return a_progress(Stage.TRAIN, 40, at=NOW)
    return a_progress(Stage.TRAIN, 50, at=datetime.now(UTC))


def cancelled_while_its_errand_is_held(stage: RealStage) -> None:
    """A quota refuses the Job that stores the partial LoRA, then somebody suspends it twice."""
    pod = stage.present_pod()
    allow_no_jobs(stage)
    stage.patch({"cancel": {"keepPartial": True}})
    stage.is_leaving(pod)
    stage.end(pod, 143)
    stage.is_in("Pending", "CreationRefused")
    stage.api.request("DELETE", f"{quotas(stage)}/no-jobs")
    # Whatever moves has the operator look at once.
    stage.patch({}, annotations={"looked-at": "again"})
    eventually(lambda: "anna-partial" in stage.has(JOBS), "the errand is sent")
    hold_partial(stage, held=True)
    eventually(lambda: not partial(stage)["spec"]["suspend"], "it is let go once")
    hold_partial(stage, held=True)
    says(stage, "HeldElsewhere")
    hold_partial(stage, held=False)
    says(stage, "Cancelling")
    stage.end(stage.running_pod(job="anna-partial"), 0, a_good_result())
    stage.is_in("Cancelled")
    stage.is_empty_of(JOBS, PODS, CLAIMS)


def quotas(stage: RealStage) -> str:
    return f"/api/v1/namespaces/{stage.namespace}/resourcequotas"


def allow_no_jobs(stage: RealStage) -> None:
    quota = {"metadata": {"name": "no-jobs"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    stage.api.request("POST", quotas(stage), quota)
    path = f"{quotas(stage)}/no-jobs"
    eventually(
        lambda: "hard" in stage.api.request("GET", path).get("status", {}), "the quota counts"
    )


def partial(stage: RealStage) -> Object:
    job = stage.api.get(JOBS, stage.namespace, "anna-partial")
    assert job is not None
    return job


def hold_partial(stage: RealStage, *, held: bool) -> None:
    stage.patch_job({"suspend": held}, job="anna-partial")


def says(stage: RealStage, reason: str) -> None:
    eventually(lambda: stage.condition("Running")["reason"] == reason, f"it says {reason}")


def told_of_once_all_have_their_jobs(stage: RealStage) -> None:
    for name in (*CROWD, stage.name):
        RealStage(stage.api, stage.training.named(name)).is_in("Pending", "PodPending")


def until_it_trains(stage: RealStage) -> None:
    """The way to a trainer at work, which other lives show."""
    stage.running_pod()
    stage.is_in("Starting", "Running")


LIVES = {
    "in Kueue's queue": Script(
        training=a_training().queued_in("gpus"), live=admitted_preempted_and_admitted_again
    ),
    "evicted because it hangs": Script(
        training=a_training().with_spec("limits.stallTimeoutSeconds", 30),
        begin=until_it_trains,
        live=evicted_because_it_hangs,
        trainer=the_first_hangs,
        # Two seconds in all, instead of a minute and a half.
        constants={"lora_operator.rules.stall.MARGIN_SECONDS": -28},
    ),
    "cancelled while its errand is held": Script(
        training=a_training().with_spec("retention.jobSeconds", 0),
        begin=until_it_trains,
        live=cancelled_while_its_errand_is_held,
    ),
}


@pytest.mark.parametrize("life", LIVES)
def test_killed_after_any_write_of_a_life_that_is_held_up_it_ends_the_same(
    real_theatre: Theatre, life: str
) -> None:
    real_theatre.each_point_ends_the_same(LIVES[life])


def test_killed_before_it_has_told_of_what_it_did_for_a_crowd_it_does_nothing_twice(
    real_theatre: Theatre,
) -> None:
    life = real_theatre.each_point_ends_the_same(
        Script(
            training=a_training(),
            crowd=CROWD,
            live=told_of_once_all_have_their_jobs,
            # Whom it has looked at goes to the end of the line, where it has one for all.
            options=("--workers=1",),
        )
    )
    words = [write.startswith("PATCH loratrainings") for write in life.writes]
    assert life.writes[: words.index(True)].count("POST jobs") == len(CROWD) + 1
