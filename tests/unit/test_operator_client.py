"""What the operator understands of answers that are errors, from a server that gives any answer."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from tests.builders import NOW, RUN_UID, a_pod, a_training
from tests.dictionary_api import DictionaryApi

from lora_operator.actions import Actor
from lora_operator.cache import Cache
from lora_operator.errors import UnavailableError
from lora_operator.kube.client import MAX_RETRY_AFTER_SECONDS, KubeClient
from lora_operator.kube.resources import PODS
from lora_operator.state.decision import Action
from lora_operator.state.reading import read_pod
from lora_operator.state.views import Job, Observed

Object = dict[str, Any]


class Answers:
    """The next answer."""

    def __init__(self) -> None:
        self.body: object = {}
        self.headers: dict[str, str] = {}

    async def give(self, _: web.Request) -> web.Response:
        return web.json_response(self.body, status=429, headers=self.headers)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def client(answers: Answers) -> AsyncIterator[KubeClient]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answers.give)
    async with TestServer(application) as server, ClientSession() as session:
        yield KubeClient(session=session, server=str(server.make_url("")).rstrip("/"))


async def the_error(client: KubeClient) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        await client.get(PODS, "studio", "anna")
    return caught.value


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("3600", MAX_RETRY_AFTER_SECONDS),
        ("9" * 400, MAX_RETRY_AFTER_SECONDS),
        ("Sun, 22 Nov 2026 13:00:00 GMT", None),
        ("", None),
    ],
)
async def test_the_patience_that_is_asked_for_has_a_bound(
    client: KubeClient, answers: Answers, header: str, seconds: float | None
) -> None:
    answers.headers = {"Retry-After": header}
    assert (await the_error(client)).retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("body", "causes"),
    [
        ({"details": {"causes": [{"reason": "DisruptionBudget"}]}}, {"DisruptionBudget"}),
        ({"details": {"causes": None}}, set()),
        ({"details": None}, set()),
        ({"details": {"causes": ["odd"]}}, set()),
        ({"details": "odd"}, set()),
        (["odd"], set()),
    ],
)
async def test_causes_are_told_where_there_are_any(
    client: KubeClient, answers: Answers, body: object, causes: set[str]
) -> None:
    answers.body = body
    assert (await the_error(client)).causes == causes


async def test_a_pod_is_not_deleted_because_the_api_server_is_busy() -> None:
    api = DictionaryApi()
    pod = a_pod().running().stored()
    api.hold(PODS, pod)
    api.refusals[("POST", "/eviction")] = UnavailableError("too many requests", status=429)
    actor = Actor(client=api, cache=Cache(), default_image="x")
    job = Job(name="anna-train", uid=RUN_UID, created_at=NOW)
    seen = Observed(run=a_training().run(), job=job, pods=(read_pod(pod),))
    with pytest.raises(UnavailableError):
        await actor.act(seen, (Action.EVICT_POD,))
    assert not [asked for asked in api.asked if asked.startswith("DELETE")]
