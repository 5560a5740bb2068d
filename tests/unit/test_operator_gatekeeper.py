"""The gatekeeper against an API server that is slow, fails, and loses its policies."""

import asyncio
from typing import Any

import pytest
from tests.builders import NOW, a_training
from tests.dictionary_api import DictionaryApi

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY
from lora_operator.cache import Cache
from lora_operator.errors import NotFoundError, UnavailableError
from lora_operator.gatekeeper import Gatekeeper
from lora_operator.kube.resources import POLICIES, TRAININGS, Resource
from lora_operator.shared_read import SharedRead
from lora_operator.state.keys import Key
from lora_operator.state.views import Permission

Object = dict[str, Any]
POLICY: Object = {
    "apiVersion": API_VERSION,
    "kind": "TrainingPolicy",
    "metadata": {"name": ACTING_POLICY, "namespace": "studio", "uid": "p", "resourceVersion": "1"},
    "spec": {"maxConcurrentGPUs": 1},
}


def a_gatekeeper(api: DictionaryApi, cache: Cache) -> Gatekeeper:
    return Gatekeeper(
        client=api,
        cache=cache,
        on_change=lambda _: None,
        on_start=lambda _: None,
        now=lambda: NOW,
    )


def a_run(name: str) -> Object:
    body = a_training().named(name).stored()
    body["metadata"]["uid"] = f"uid-of-{name}"
    return body


async def test_a_run_is_let_go_when_its_policy_goes_after_the_ledger_failed() -> None:
    api, cache = DictionaryApi(), Cache()
    cache.put(POLICIES, POLICY)
    anna, ben, cleo = (Key("studio", name) for name in ("anna", "ben", "cleo"))
    gatekeeper = a_gatekeeper(api, cache)
    for key in (anna, ben):
        cache.put(TRAININGS, a_run(key.name))
        await gatekeeper.look(key)
    assert gatekeeper.words["uid-of-ben"].permission is Permission.AWAITED
    cache.put(TRAININGS, a_run("cleo"))
    api.refusals[("PATCH", "/2026-11")] = UnavailableError("no answer")
    with pytest.raises(UnavailableError):
        await gatekeeper.look(cleo)
    cache.drop(POLICIES, Key("studio", ACTING_POLICY))
    await gatekeeper.look(ben)
    assert "uid-of-ben" not in gatekeeper.words


class BrokenApi(DictionaryApi):
    """Answers one namespace with what nobody foresaw."""

    async def patch_status(
        self, resource: Resource, namespace: str, name: str, body: Object
    ) -> Object:
        if namespace == "broken":
            raise ZeroDivisionError
        return await super().patch_status(resource, namespace, name, body)


async def test_a_fault_in_one_namespace_leaves_the_others_their_reports() -> None:
    api, cache = BrokenApi(), Cache()
    for namespace in ("broken", "studio"):
        policy = {**POLICY, "metadata": {**POLICY["metadata"], "namespace": namespace}}
        cache.put(POLICIES, policy)
        api.objects[POLICIES.path(namespace, ACTING_POLICY)] = policy
    await a_gatekeeper(api, cache).flush()
    assert "status" in api.objects[POLICIES.path("studio", ACTING_POLICY)]


async def test_a_policy_that_can_not_be_read_says_so_itself() -> None:
    api, cache = DictionaryApi(), Cache()
    policy = {**POLICY, "spec": {"maxConcurrentGPUs": "many"}}
    cache.put(POLICIES, policy)
    api.hold(POLICIES, policy)
    await a_gatekeeper(api, cache).flush()
    (condition,) = api.objects[POLICIES.path("studio", ACTING_POLICY)]["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "PolicyUnreadable")
    assert "maxConcurrentGPUs" in condition["message"]


class SlowApi(DictionaryApi):
    """Counts reads, and answers none before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.at_once = 0

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        self.reads += 1
        self.at_once += 1
        assert self.at_once == 1
        await asyncio.sleep(0)
        self.at_once -= 1
        raise NotFoundError("not there", status=404)


async def test_new_runs_of_a_namespace_without_a_policy_do_not_wait_for_each_other() -> None:
    api, cache = SlowApi(), Cache()
    names = [f"run-{number}" for number in range(100)]
    for name in names:
        cache.put(TRAININGS, a_training().named(name).stored())
    gatekeeper = a_gatekeeper(api, cache)
    await asyncio.gather(*(gatekeeper.look(Key("studio", name)) for name in names))
    assert api.reads == 1


async def test_no_answer_is_older_than_the_question() -> None:
    begun: list[asyncio.Event] = []

    async def read(_: str) -> None:
        begun.append(asyncio.Event())
        await begun[-1].wait()

    shared = SharedRead(read)
    first = asyncio.create_task(shared("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(shared("a")) for _ in range(3)]
    other = asyncio.create_task(shared("b"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == 2, "one of each"
    begun[0].set()
    await first
    assert not any(task.done() for task in later)
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == 3, "one more for the three"
    begun[1].set()
    begun[2].set()
    await asyncio.gather(*later, other)


async def test_an_error_reaches_all_who_wait_and_nobody_after_them() -> None:
    errors = [UnavailableError("no answer")]

    async def read(_: str) -> None:
        await asyncio.sleep(0)
        if errors:
            raise errors.pop()

    shared = SharedRead(read)
    ends = await asyncio.gather(*(shared("a") for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [UnavailableError] * 3
    await shared("a")
