"""What makes room in a namespace's queue wakes the next run, and does not wait to be looked at.

A module of its own because runs are looked at again every half minute anyway, so a wake that is
missing would only be slow; here nothing is ever looked at that was not asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.builders import a_job, a_pod
from tests.queue_scene import ANNA, BEN, Scene
from tests.results import a_good_result

from lora_operator.kube.resources import JOBS, PODS, TRAININGS


async def finish(scene: Scene) -> None:
    job = scene.api.objects[JOBS.path("studio", "anna-train")]
    pod = a_pod().ended(0, a_good_result()).stored()
    pod["metadata"]["ownerReferences"][0]["uid"] = job["metadata"]["uid"]
    scene.api.hold(PODS, pod)
    scene.cache.put(PODS, pod)
    await scene.look(ANNA)
    scene.change(JOBS, "anna-train", status=a_job().complete().stored()["status"])
    await scene.look(ANNA)


async def fail(scene: Scene) -> None:
    await scene.look(ANNA)
    scene.drop(JOBS, "anna-train")
    await scene.look(ANNA)


async def cancel(scene: Scene) -> None:
    scene.change(TRAININGS, "anna", spec={**scene.spec_of("anna"), "cancel": {}})
    scene.drop(JOBS, "anna-train")
    await scene.look(ANNA)


async def suspend(scene: Scene) -> None:
    scene.change(TRAININGS, "anna", spec={**scene.spec_of("anna"), "suspend": True})
    await scene.look(ANNA)


async def delete(scene: Scene) -> None:
    scene.drop(TRAININGS, "anna")
    await scene.look(ANNA)


ROOM: dict[str, Callable[[Scene], Any]] = {
    "has completed": finish,
    "has failed": fail,
    "is cancelled": cancel,
    "is suspended by its user": suspend,
    "is deleted": delete,
}


@pytest.mark.parametrize("sentence", ROOM)
async def test_the_next_run_starts_at_once_after_one_that(sentence: str) -> None:
    scene = await Scene().open()
    await ROOM[sentence](scene)
    assert scene.wakes == [BEN]
    await scene.look(BEN)
    assert scene.has_job("ben")


async def test_of_a_raised_quota_those_that_wait_hear_first_and_in_their_order() -> None:
    scene = await Scene().open()
    scene.news.clear()
    scene.hear_of_policy()
    assert scene.news == [], "nothing changed"
    scene.set_quota(2)
    scene.hear_of_policy()
    assert scene.news == [BEN, ANNA]
    await scene.look(BEN)
    assert scene.has_job("ben")
