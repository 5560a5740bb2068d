"""What happens to a run while its namespace's gate is being asked gives it no permission.

A module of its own because here the cache moves in the middle of a look, while the ledger is being
written.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import NOW, a_claim, a_pod, stamp
from tests.dictionary_api import DictionaryApi
from tests.queue_scene import ANNA, BEN, Scene

from lora_api import API_VERSION
from lora_api.training import KIND
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS
from lora_operator.state.keys import Key

Object = dict[str, Any]


class Meanwhile(DictionaryApi):
    """Something happens while the ledger is being written, once."""

    happens: Callable[[], None] | None = None

    async def _request(self, verb: str, path: str, **rest: Any) -> Object:  # noqa: ANN401
        if verb in ("PATCH", "POST") and "/trainingledgers" in path and self.happens is not None:
            happens, self.happens = self.happens, None
            happens()
        return await super()._request(verb, path, **rest)


async def test_who_is_resumed_while_its_gpu_is_given_away_does_not_go_on_with_it() -> None:
    api = Meanwhile()
    scene = await Scene(api).open()
    going = {**scene.spec_of("anna"), "suspend": True}
    scene.change(TRAININGS, "anna", spec=going)
    job = api.objects[JOBS.path("studio", "anna-train")]
    scene.change(JOBS, "anna-train", spec={**job["spec"], "suspend": True})
    api.happens = lambda: scene.change(TRAININGS, "anna", spec={**going, "suspend": False})
    await scene.look(ANNA)
    assert scene.wakes == [BEN], "the GPU is ben's now"
    assert api.objects[JOBS.path("studio", "anna-train")]["spec"]["suspend"] is True


async def test_who_is_heard_of_while_another_of_its_name_leaves_has_not_been_let_go() -> None:
    api = Meanwhile()
    scene = await Scene(api).open()
    scene.drop(TRAININGS, "anna")
    scene.drop(JOBS, "anna-train")
    scene.drop(CLAIMS, "anna-workspace")
    api.happens = lambda: scene.create("anna", uid="another")
    await scene.look(ANNA)
    assert scene.wakes == [BEN]
    assert not scene.has_job("anna")


async def test_a_new_leader_sums_up_who_was_deleted_while_nobody_led() -> None:
    scene = await Scene().open()
    scene.is_led_anew()
    scene.drop(TRAININGS, "ben")
    await scene.look(ANNA)
    await scene.flush()
    assert [run["uid"] for run in scene.ledger()["runs"]] == ["uid-of-anna"]
    assert scene.ledger()["users"][0]["trainings"] == 1


async def test_a_new_leader_whose_watch_is_behind_forgets_no_run_that_has_its_place() -> None:
    scene = await Scene().open()
    scene.create("cleo")
    await scene.look(Key("studio", "cleo"))
    places = scene.ledger()["runs"]
    scene.is_led_anew()
    scene.cache.drop(TRAININGS, Key("studio", "cleo"))
    await scene.look(ANNA)
    await scene.flush()
    assert scene.ledger()["runs"] == places
    assert Key("studio", "cleo") in scene.news, "nobody else tells of what is known already"


@pytest.mark.parametrize("is_led_anew", [False, True], ids=["same leader", "another leader"])
async def test_gpus_of_a_deleted_run_are_given_away_once_its_last_pod_has_ended(
    is_led_anew: bool,
) -> None:
    scene = await Scene().open()
    pod = a_pod().aged(100).running()
    scene.add_pod(pod)
    await scene.look(ANNA)
    await scene.flush()
    if is_led_anew:
        scene.is_led_anew()
    scene.drop(TRAININGS, "anna")
    await scene.look(ANNA)
    scene.now += timedelta(seconds=60)
    await scene.flush()
    assert scene.wakes == [], "its pod has the GPU"
    scene.drop(PODS, pod.name)
    await scene.look(ANNA)
    assert scene.wakes == [BEN]
    await scene.flush()
    assert scene.gpu_seconds() == 100 + 60


class HeardLate(DictionaryApi):
    """Something happens while a run is read anew, once."""

    happens: Callable[[], None] | None = None

    async def _request(self, verb: str, path: str, **rest: Any) -> Object:  # noqa: ANN401
        if verb == "GET" and path.endswith("/loratrainings/anna") and self.happens is not None:
            happens, self.happens = self.happens, None
            happens()
        return await super()._request(verb, path, **rest)


@pytest.mark.parametrize(("kept", "deletions"), [("Retain", 0), (None, 1)])
async def test_a_policy_that_is_heard_of_late_still_says_what_is_kept_of_a_run(
    kept: str | None, deletions: int
) -> None:
    api = HeardLate()
    scene = Scene(api)
    scene.create("anna")
    yesterday = stamp(NOW - timedelta(days=1))
    over = {"type": "Succeeded", "status": "True", "reason": "Completed"}
    ended = {
        "phase": "Completed",
        "completedAt": yesterday,
        "conditions": [{**over, "lastTransitionTime": yesterday}],
    }
    scene.change(TRAININGS, "anna", status=ended)
    claim = a_claim()
    claim["metadata"] |= {
        "resourceVersion": "7",
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": "anna",
                "uid": "uid-of-anna",
                "controller": True,
            }
        ],
    }
    api.hold(CLAIMS, claim)
    scene.cache.put(CLAIMS, claim)
    api.happens = lambda: scene.set_policy(defaults={"workspaceRetention": kept})
    await scene.look(ANNA)
    assert api.happens is None, "the run was read anew"
    assert [asked.split()[0] for asked in api.asked].count("DELETE") == deletions, api.asked
