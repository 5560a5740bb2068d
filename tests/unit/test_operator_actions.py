"""What is created, where it depends on what is there already."""

from typing import Any

import pytest
from tests.builders import a_job, a_training
from tests.dictionary_api import DictionaryApi

from lora_api.job import JOB_ENVIRONMENT_VARIABLE
from lora_operator.actions import Actor
from lora_operator.builders.job import GPU_RESOURCE
from lora_operator.cache import Cache
from lora_operator.kube.resources import JOBS, TRAININGS
from lora_operator.labels import partial_job_name, upload_job_name
from lora_operator.observe import observe
from lora_operator.state.decision import Action
from lora_operator.state.keys import Key

Object = dict[str, Any]
ANNA = Key("studio", "anna")
OLD_DOCUMENT = '{"written by": "an earlier version"}'


def container_of(job: Object) -> Object:
    found: Object = job["spec"]["template"]["spec"]["containers"][0]
    return found


def document_of(job: Object) -> str:
    values = {entry["name"]: entry.get("value", "") for entry in container_of(job)["env"]}
    return str(values[JOB_ENVIRONMENT_VARIABLE])


async def upload_after(trained: Object | None) -> Object:
    """The upload Job that is made where this Job is there."""
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, a_training().stored())
    if trained is not None:
        cache.put(JOBS, trained)
    seen = observe(cache, ANNA, {})
    assert seen is not None
    actor = Actor(client=api, cache=cache, default_image="lora-trainer:newer")
    await actor.act(seen, (Action.CREATE_UPLOAD_JOB,))
    return api.objects[JOBS.path("studio", upload_job_name("anna"))]


async def test_an_upload_goes_on_with_the_document_and_image_of_the_job_that_trained() -> None:
    trained = a_job().stored()
    for entry in container_of(trained)["env"]:
        if entry["name"] == JOB_ENVIRONMENT_VARIABLE:
            entry["value"] = OLD_DOCUMENT
    upload = await upload_after(trained)
    assert (container_of(upload)["image"], document_of(upload)) == (
        "lora-trainer:test",
        OLD_DOCUMENT,
    )
    assert GPU_RESOURCE not in container_of(upload)["resources"]["requests"]
    assert upload["metadata"]["name"] == upload_job_name("anna")


@pytest.mark.parametrize("owners", [None, []])
async def test_an_upload_takes_over_nothing_from_a_stranger(owners: list[Object] | None) -> None:
    stranger = a_job().stored()
    stranger["metadata"]["ownerReferences"] = owners or []
    upload = await upload_after(stranger if owners is not None else None)
    assert container_of(upload)["image"] == "lora-trainer:newer"
    assert document_of(upload) == document_of(a_job().stored())


async def test_a_held_errand_is_let_go_with_a_note_and_the_others_stay_as_they_are() -> None:
    api, cache = DictionaryApi(), Cache()
    cache.put(TRAININGS, a_training().stored())
    job = a_job().suspended().stored()
    job["metadata"] |= {"name": partial_job_name("anna"), "annotations": {}}
    cache.put(JOBS, job)
    api.hold(JOBS, job)
    seen = observe(cache, ANNA, {})
    assert seen is not None
    after = await Actor(client=api, cache=cache, default_image="").act(
        seen, (Action.RESUME_ERRAND,)
    )
    assert after.partial_job is not None
    assert not after.partial_job.suspended
    assert (after.job, after.upload_job, after.tidy_job) == (None, None, None)
