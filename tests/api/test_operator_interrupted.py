"""The operator cut off between any two requests of a run's first look, against a real API server.

A module of its own because a killed process can't be told where to die: here the looks run inside
the test, with a client that stops sending.
"""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.api.operator_process import ApiServer, Object
from tests.builders import NOW, a_training

from lora_operator.actions import Actor
from lora_operator.builders.ownership import is_owned_by
from lora_operator.cache import Cache
from lora_operator.kube.client import KubeClient
from lora_operator.kube.credentials import connect
from lora_operator.kube.resources import CLAIMS, JOBS, TRAININGS
from lora_operator.metrics import Metrics
from lora_operator.reconcile import Reconciler
from lora_operator.state.keys import Key
from lora_operator.status import StatusWriter

pytestmark = pytest.mark.api
# Read the run, create claim and Job, write the status, post the event.
REQUESTS_OF_A_FIRST_LOOK = 5


class CutOffError(Exception):
    """Stands for the process's end: nothing in the operator handles it."""


class ShortLivedClient(KubeClient):
    """Sends so many requests and not one more."""

    def __init__(self, session: aiohttp.ClientSession, server: str, lifetime: int) -> None:
        super().__init__(session=session, server=server)
        self.left = lifetime

    async def _request(self, verb: str, path: str, **options: Any) -> Object:  # noqa: ANN401
        if self.left == 0:
            raise CutOffError
        self.left -= 1
        return await super()._request(verb, path, **options)


class Life:
    """Operators on one run, one after the other; each knows only what the API server tells it."""

    def __init__(self, api: ApiServer, session: aiohttp.ClientSession, server: str) -> None:
        self.api, self._session, self._server = api, session, server
        self.namespace = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
        self.run = api.create(TRAININGS, a_training().in_namespace(self.namespace).manifest())

    async def look(
        self, *, lifetime: int = 1000, late: bool = False, run: Object | None = None
    ) -> int:
        """A new operator's look; a late cache has heard of the run alone, perhaps long ago.

        Returns:
            How many requests it sent.
        """
        cache = Cache()
        for resource in (TRAININGS,) if late else (TRAININGS, CLAIMS, JOBS):
            for body in self.api.list(resource, self.namespace):
                cache.put(resource, body)
        if run is not None:
            cache.drop(TRAININGS, Key(self.namespace, "anna"))
            cache.put(TRAININGS, run)
        client = ShortLivedClient(self._session, self._server, lifetime)
        await Reconciler(
            client=client,
            cache=cache,
            actor=Actor(client=client, cache=cache, default_image="lora-trainer:test"),
            writer=StatusWriter(client=client, identity="test"),
            metrics=Metrics(),
            progress_of={},
            now=lambda: NOW,
        ).reconcile(Key(self.namespace, "anna"))
        return lifetime - client.left

    def status(self) -> Object:
        body = self.api.get(TRAININGS, self.namespace, "anna")
        assert body is not None
        status: Object = body["status"]
        # Two runs are compared, and this counts from the birth of each.
        del status["timeline"]
        return status


@pytest_asyncio.fixture
async def lives(api: ApiServer) -> AsyncIterator[tuple[Life, Life]]:
    connection = connect()
    async with connection.session() as session:
        yield Life(api, session, connection.server), Life(api, session, connection.server)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("lifetime", range(REQUESTS_OF_A_FIRST_LOOK))
async def test_cut_off_after_any_request_the_next_operator_ends_at_the_same(
    lives: tuple[Life, Life], lifetime: int, late: bool
) -> None:
    undisturbed, life = lives
    assert await undisturbed.look() == REQUESTS_OF_A_FIRST_LOOK
    with pytest.raises(CutOffError):
        await life.look(lifetime=lifetime)
    await life.look(late=late)
    for resource in (CLAIMS, JOBS):
        (child,) = life.api.list(resource, life.namespace)
        assert is_owned_by(child, life.run["metadata"]["uid"])
    assert life.status() == undisturbed.status()


async def test_a_watch_that_is_behind_makes_no_second_job(lives: tuple[Life, Life]) -> None:
    life, _ = lives
    await life.look()
    life.api.delete(JOBS, life.namespace, "anna-train")
    # The next operator has heard of the deletion, but not of the status that names the Job.
    await life.look(run=life.run)
    assert life.api.list(JOBS, life.namespace) == []
    assert life.status()["failure"]["reason"] == "JobVanished"
