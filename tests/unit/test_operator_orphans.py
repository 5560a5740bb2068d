"""What belongs to no run, and how sure the operator is before it removes something."""

import copy
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import aiohttp
import pytest
from tests.builders import RUN_UID, a_claim, a_job, a_pod, a_training

from lora_operator.builders.ownership import metadata
from lora_operator.errors import NotFoundError
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import CLAIMS, JOBS, TRAININGS, Resource
from lora_operator.metrics import Metrics
from lora_operator.orphans import OrphanSweeper, is_orphan

Object = dict[str, Any]


def the_job(**meta: Any) -> Object:  # noqa: ANN401
    body = a_job().stored()
    body["metadata"] |= meta
    return body


def owner(**changes: str) -> list[Object]:
    reference = metadata(a_training().run(), "x")["ownerReferences"][0]
    return [reference | changes]


ORPHANS: dict[str, tuple[Object, set[str], bool]] = {
    "a Job of a run that exists": (the_job(), {RUN_UID}, False),
    "a Job of a run that is gone, where nobody collects garbage": (the_job(), set(), True),
    "a Job without an owner whose run is gone": (the_job(ownerReferences=[]), set(), True),
    "a Job whose owner was stripped under a living run": (
        the_job(ownerReferences=[]),
        {RUN_UID},
        False,
    ),
    "a Job that goes already": (the_job(deletionTimestamp="2026-01-01T00:00:00Z"), set(), False),
    "a Job that somebody else owns": (
        the_job(ownerReferences=owner(kind="Workflow")),
        set(),
        False,
    ),
    "a Job of another group's kind of that name": (
        the_job(ownerReferences=owner(apiVersion="other.dev/v1")),
        set(),
        False,
    ),
    "a pod, which goes with its Job": (a_pod().stored(), set(), False),
}


@pytest.mark.parametrize("sentence", ORPHANS)
def test_an_orphan_is_not(sentence: str) -> None:
    body, uids, expected = ORPHANS[sentence]
    assert is_orphan(body, uids) is expected


class Shelf(KubeClient):
    """Holds objects by kind; what is read live may differ from what was listed."""

    def __init__(self) -> None:
        super().__init__(session=cast("aiohttp.ClientSession", None), server="")
        self.listed: dict[Resource, list[Object]] = {}
        self.run_live: Object | None = None
        self.deleted: list[str] = []

    async def list_metadata(
        self, resource: Resource, namespace: str | None, *, label_selector: str | None
    ) -> AsyncIterator[Object]:
        del namespace, label_selector
        for body in self.listed.get(resource, []):
            yield copy.deepcopy(body)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        del resource, namespace, name
        if self.run_live is None:
            raise NotFoundError("gone", status=404)
        return self.run_live

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, propagation: str
    ) -> None:
        del resource, namespace, uid, propagation
        self.deleted.append(name)


def a_claim_of_ours() -> Object:
    body = a_claim()
    body["metadata"] |= metadata(a_training().run(), "anna-workspace")
    body["metadata"]["uid"] = "uid-of-claim"
    return body


CHANGES: dict[str, tuple[Callable[[Shelf], None], list[str]]] = {
    "nothing happened": (lambda shelf: None, ["anna-train", "anna-workspace"]),
    "the run was listed late": (
        lambda shelf: shelf.listed.update({TRAININGS: [a_training().stored()]}),
        [],
    ),
    "the run can be read after all": (
        lambda shelf: setattr(shelf, "run_live", a_training().stored()),
        [],
    ),
    "one of them was made anew": (
        lambda shelf: shelf.listed.update({JOBS: [the_job(uid="another")]}),
        ["anna-workspace"],
    ),
}


@pytest.mark.parametrize("sentence", CHANGES)
async def test_only_what_is_an_orphan_three_times_goes(sentence: str) -> None:
    change, gone = CHANGES[sentence]
    shelf = Shelf()
    shelf.listed = {JOBS: [the_job()], CLAIMS: [a_claim_of_ours()]}
    sweeper = OrphanSweeper(client=shelf, metrics=Metrics(), namespaces=())
    await sweeper.sweep()
    assert shelf.deleted == []
    change(shelf)
    await sweeper.sweep()
    assert sorted(shelf.deleted) == gone
