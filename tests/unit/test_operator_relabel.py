"""Which Jobs that went out of sight are asked for: those of living runs, and no others."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.builders import a_job, a_training
from tests.dictionary_api import DictionaryApi

from lora_operator.cache import Cache
from lora_operator.kube.resources import JOBS, TRAININGS
from lora_operator.relabel import LabelKeeper

Object = dict[str, Any]
READ = f"GET {JOBS.path('studio', 'anna-train')}"
CHANGE = READ.replace("GET", "PATCH")


def stripped(job: Object) -> Object:
    meta = {**job["metadata"], "labels": {"team": "a"}}
    return {**job, "metadata": meta}


def made_again(job: Object) -> Object:
    return {**stripped(job), "metadata": {**stripped(job)["metadata"], "uid": "another"}}


def nothing(_: Object) -> None:
    return None


THERE: dict[str, tuple[Callable[[Object], Object | None], list[str]]] = {
    "it is there without its labels": (stripped, [READ, CHANGE]),
    "it is there with them, and was only heard of late": (dict, [READ]),
    "it is gone": (nothing, [READ]),
    "another one has its name": (made_again, [READ]),
}


async def asked_about(job: Object, run: Object | None, there: Object | None) -> list[str]:
    """What the API server is asked once a Job went out of sight."""
    api, cache = DictionaryApi(), Cache()
    if run is not None:
        cache.put(TRAININGS, run)
    if there is not None:
        api.hold(JOBS, there)
    keeper = LabelKeeper(client=api, cache=cache)
    keeper.miss(job)
    work = asyncio.create_task(keeper.run())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not work.done()
    work.cancel()
    return api.asked


@pytest.mark.parametrize("sentence", THERE)
async def test_a_job_of_a_living_run_is_asked_for(sentence: str) -> None:
    make, expected = THERE[sentence]
    job = a_job().stored()
    assert await asked_about(job, a_training().stored(), make(job)) == expected


@pytest.mark.parametrize(
    ("sentence", "job", "run"),
    [
        ("its run is gone", a_job().stored(), None),
        ("its run is being deleted", a_job().stored(), a_training().being_deleted().stored()),
        ("it was being deleted itself", a_job().being_deleted().stored(), a_training().stored()),
        (
            "it belongs to an earlier run of that name",
            a_job().stored(),
            {
                **a_training().stored(),
                "metadata": {"name": "anna", "namespace": "studio", "uid": "x"},
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_nobody_is_asked_where(sentence: str, job: Object, run: Object | None) -> None:
    assert await asked_about(job, run, stripped(job)) == [], sentence
