"""What is held is paid for, whether or not anything is told of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.builders import NOW, APod, a_job, a_pod, a_training
from tests.queue_scene import ANNA, Scene
from tests.sights import ASight, seen

from lora_api.status import AttemptStatus, LoRATrainingStatus
from lora_operator.gpu_meter import read_meter
from lora_operator.kube.resources import PODS, TRAININGS
from lora_operator.state.views import Permission, PolicyWord

HOUR = timedelta(hours=1)
PLACED_AT = NOW - timedelta(seconds=100)


def attempted(*attempts: AttemptStatus, gpu_seconds: int) -> LoRATrainingStatus:
    return LoRATrainingStatus(recent_attempts=attempts, gpu_seconds=gpu_seconds)


def attempt(
    pod: str, *, gpu_seconds: int | None = None, ended_at: datetime | None = None
) -> AttemptStatus:
    return AttemptStatus(
        number=1,
        pod_name=pod,
        scheduled_at=PLACED_AT,
        gpu_seconds=gpu_seconds,
        ended_at=ended_at,
    )


def with_pod(pod: APod, status: LoRATrainingStatus | None = None) -> ASight:
    sight = seen(a_training().with_gpus(2)).with_job(a_job()).with_pods(pod)
    return sight.with_status(status)


POD = replace(a_pod(), age=timedelta(seconds=100))
METERS: dict[str, tuple[ASight, int, int]] = {
    "nothing while no pod has a node": (with_pod(POD), 0, 0),
    "a pod of which the status has nothing yet": (with_pod(POD.placed()), 200, 2),
    "what a pod held since it was counted": (
        with_pod(POD.running(), attempted(attempt(POD.name, gpu_seconds=20), gpu_seconds=520)),
        700,
        2,
    ),
    "nothing twice of a pod whose end is counted": (
        with_pod(
            POD.running().ended(1),
            attempted(attempt(POD.name, gpu_seconds=180, ended_at=NOW), gpu_seconds=500),
        ),
        500,
        0,
    ),
}


@pytest.mark.parametrize("sentence", METERS)
def test_the_meter_counts(sentence: str) -> None:
    sight, gpu_seconds, gpus = METERS[sentence]
    meter = read_meter(sight.observed, NOW)
    assert (meter.gpu_seconds, meter.gpus) == (gpu_seconds, gpus)
    assert meter.until(NOW + HOUR) == gpu_seconds + gpus * 3600


def test_no_pod_is_counted_beyond_its_end_however_late_it_is_looked_at() -> None:
    sight = with_pod(POD.running().ended(1), attempted(attempt(POD.name), gpu_seconds=500))
    for now in (NOW, NOW + HOUR):
        meter = read_meter(sight.observed, now)
        assert (meter.gpu_seconds, meter.gpus) == (700, 0)


async def at_work() -> Scene:
    """Anna's pod is on a node since a moment, and the operator has seen it."""
    scene = await Scene().open()
    scene.add_pod(POD.running())
    await scene.look(ANNA)
    return scene


async def test_an_hour_in_which_nothing_is_told_is_paid_for() -> None:
    scene = await at_work()
    scene.now += HOUR
    await scene.look(ANNA)
    await scene.flush()
    assert scene.gpu_seconds() == 100 + 3600


async def test_what_no_look_comes_for_is_written_down_from_time_to_time() -> None:
    scene = await at_work()
    scene.now += HOUR
    await scene.flush()
    assert scene.gpu_seconds() == 100 + 3600


async def test_who_deletes_a_run_pays_for_what_it_held() -> None:
    scene = await at_work()
    scene.now += HOUR
    for resource, name in ((PODS, POD.name), (TRAININGS, "anna")):
        scene.drop(resource, name)
    await scene.look(ANNA)
    await scene.flush()
    assert scene.gpu_seconds() == 100 + 3600


async def test_a_run_that_is_being_deleted_is_paid_for_until_it_is_gone() -> None:
    scene = await at_work()
    scene.being_deleted("anna")
    scene.now += HOUR
    await scene.flush()
    assert scene.gpu_seconds() == 100 + 3600
    scene.now += HOUR
    for resource, name in ((PODS, POD.name), (TRAININGS, "anna")):
        scene.drop(resource, name)
    await scene.look(ANNA)
    await scene.flush()
    assert scene.gpu_seconds() == 100 + 2 * 3600


def test_a_cost_above_the_line_is_told_of_though_nothing_else_has_changed() -> None:
    sight = seen().with_job().with_pods(a_pod().placed().running())
    word = PolicyWord(permission=Permission.GRANTED)
    settled = sight.told_by_policy(word).settled()
    assert settled.decide().status is None
    dear = settled.told_by_policy(replace(word, alert="It has cost 3.00 USD.")).decide()
    assert [event.message for event in dear.events] == ["It has cost 3.00 USD."]
