"""A bad wire and a bad day of the API server: the run ends as if nothing had been.

Each test lets a whole life go by, or a step of it, while a proxy in front of the real API server
does what networks and overloaded servers do.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from aiohttp import web
from tests.api.interception import Forward, Interceptor, Request, pass_on, refusal
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_pod, a_training

from lora_cluster.light import LightCluster
from lora_operator.kube.resources import JOBS, TRAININGS, WATCHED

pytestmark = pytest.mark.api
WATCHES = len(WATCHED)


@pytest.fixture(scope="module")
def shared_wire(
    light_cluster: LightCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Interceptor]:
    interceptor = Interceptor(light_cluster.kubeconfig, tmp_path_factory.mktemp("wire"))
    yield interceptor
    interceptor.close()


@pytest.fixture
def wire(shared_wire: Interceptor) -> Iterator[Interceptor]:
    """The proxy; every test leaves it well-behaved."""
    yield shared_wire
    shared_wire.rule = pass_on
    shared_wire.silence_watches(False)


@pytest.fixture(scope="module")
def operator(api: ApiServer, shared_wire: Interceptor) -> Iterator[Operator]:
    """One process for all tests: it has to live through every one of them."""
    process = Operator(shared_wire.kubeconfig, "--no-leader-elect").start()
    yield process
    process.kill()


@pytest.fixture
def stage(api: ApiServer, operator: Operator) -> Iterator[Stage]:
    process = operator.process
    namespace = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    yield Stage(api, a_training().in_namespace(namespace))
    assert process is not None
    assert process.poll() is None, "the operator lives through it"
    assert "reconcile broke" not in [line["event"] for line in operator.events()]
    assert len(api.list(JOBS, namespace)) <= 1


def starts(stage: Stage) -> None:
    """The way to a running trainer."""
    stage.apply()
    stage.is_in("Pending", "PodPending")
    stage.add_pod(a_pod().placed().running())
    stage.is_in("Starting", "Running")


def test_watches_that_expired_are_begun_anew(stage: Stage, wire: Interceptor) -> None:
    stage.apply()
    stage.is_in("Pending", "PodPending")
    eventually(lambda: wire.open_watches == WATCHES, "all kinds are watched")
    wire.expire_watches()
    stage.add_pod(a_pod().placed().running())
    stage.is_in("Starting", "Running")


def test_what_was_deleted_while_watches_expired_is_noticed(
    stage: Stage, wire: Interceptor, operator: Operator
) -> None:
    stage.apply()
    stage.is_in("Pending", "PodPending")
    known = operator.metric("lora_operator_cached_objects")
    eventually(lambda: wire.open_watches == WATCHES, "all kinds are watched")
    # The news of the deletion is held back until the watch is over, and so never told.
    wire.silence_watches(True)
    stage.api.delete(TRAININGS, stage.namespace, stage.name)
    wire.expire_watches()
    wire.cut_watches()
    wire.silence_watches(False)
    eventually(
        lambda: operator.metric("lora_operator_cached_objects") < known, "the run is forgotten"
    )


def test_connections_that_break_all_the_time_delay_nothing_for_good(
    stage: Stage, wire: Interceptor
) -> None:
    done = threading.Event()

    def cut() -> None:
        while not done.wait(0.05):
            wire.cut_watches()

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        stage.apply()
        assert stage.live()["attempts"] == 2
    finally:
        done.set()
        thread.join()


def test_a_watch_that_fell_silent_is_noticed(stage: Stage, wire: Interceptor) -> None:
    stage.apply()
    stage.is_in("Pending", "PodPending")
    eventually(lambda: wire.open_watches == WATCHES, "all kinds are watched")
    # These connections stay open and never say another word; new ones do.
    wire.hush_open_watches()
    stage.add_pod(a_pod().placed().running())
    stage.is_in("Starting", "Running")


class Refuses:
    """Refuses the first so many requests that a test cares for."""

    def __init__(self, count: int, answer: web.Response, *, resource: str = "") -> None:
        self.times: list[float] = []
        self._left, self._answer, self._resource = count, answer, resource

    async def __call__(self, request: Request, forward: Forward) -> web.StreamResponse:
        if self._left == 0 or self._resource not in {"", request.resource} or not request.is_write:
            return await forward()
        self._left -= 1
        self.times.append(time.monotonic())
        answer = self._answer
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


def test_a_busy_api_server_is_left_alone_as_long_as_it_asks(
    stage: Stage, wire: Interceptor
) -> None:
    rule = wire.rule = Refuses(2, refusal(429, "TooManyRequests", retry_after=2), resource="jobs")
    starts(stage)
    first, second = rule.times
    # A client's clock is read a moment after the answer was sent.
    assert second - first > 1.9


def test_every_fourth_request_fails_or_loses_its_answer(stage: Stage, wire: Interceptor) -> None:
    chance = random.Random(1)  # noqa: S311

    async def storm(request: Request, forward: Forward) -> web.StreamResponse:
        fate = chance.random()
        if fate < 0.12:
            return refusal(500, "InternalError")
        answer = await forward()
        if fate < 0.25 and not request.is_watch:
            # It was done, but nobody will hear of it.
            return refusal(504, "Timeout")
        return answer

    wire.rule = storm
    stage.apply()
    assert stage.live()["attempts"] == 2


def test_somebody_who_always_writes_first_is_not_overwritten(
    stage: Stage, wire: Interceptor
) -> None:
    path = TRAININGS.path(stage.namespace, stage.name)
    left, answers = iter(range(5)), []

    async def hurry(request: Request, forward: Forward) -> web.StreamResponse:
        if request.verb == "PATCH" and (number := next(left, None)) is not None:
            patch = {"metadata": {"labels": {"team": f"t{number}"}}}
            kind = "application/merge-patch+json"
            await asyncio.to_thread(stage.api.request, "PATCH", path, patch, kind)
            answer = await forward()
            answers.append(answer.status)
            return answer
        return await forward()

    wire.rule = hurry
    starts(stage)
    # None of them was written over what the other one wrote.
    assert answers == [409] * 5
    body = stage.api.get(TRAININGS, stage.namespace, stage.name)
    assert body is not None
    assert body["metadata"]["labels"] == {"team": "t4"}


def test_a_run_deleted_between_read_and_write_is_let_go(stage: Stage, wire: Interceptor) -> None:
    deleted = threading.Event()

    async def delete(request: Request, forward: Forward) -> web.StreamResponse:
        if request.verb == "PATCH" and not deleted.is_set():
            await asyncio.to_thread(stage.api.delete, TRAININGS, stage.namespace, stage.name)
            deleted.set()
        return await forward()

    wire.rule = delete
    stage.apply()
    assert deleted.wait(30)
    other = Stage(stage.api, stage.training.named("ben"))
    stage.api.delete(JOBS, stage.namespace, f"{stage.name}-train")
    starts(other)
    assert stage.api.get(TRAININGS, stage.namespace, stage.name) is None


def test_answers_that_take_two_seconds_only_slow_it_down(stage: Stage, wire: Interceptor) -> None:
    async def slow(_: Request, forward: Forward) -> web.StreamResponse:
        await asyncio.sleep(2)
        return await forward()

    wire.rule = slow
    starts(stage)


def test_an_api_server_that_is_down_is_waited_for(stage: Stage, wire: Interceptor) -> None:
    stage.apply()
    stage.is_in("Pending", "PodPending")
    refused = 0

    async def down(_: Request, __: Forward) -> web.StreamResponse:
        nonlocal refused
        refused += 1
        return refusal(503, "ServiceUnavailable")

    wire.rule = down
    wire.cut_watches()
    # Long after whoever counts his tries would have given up.
    eventually(lambda: refused > 10 * WATCHES, "it keeps trying")
    wire.rule = pass_on
    stage.add_pod(a_pod().placed().running())
    stage.is_in("Starting", "Running")


def test_a_leader_that_can_not_renew_begins_anew_and_waits_for_the_api_server(
    api: ApiServer, wire: Interceptor
) -> None:
    namespace = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    stage = Stage(api, a_training().in_namespace(namespace))
    arguments = (f"--namespace={namespace}", f"--lease-namespace={namespace}")
    leader = Operator(wire.kubeconfig, *arguments)
    try:
        leader.start()
        eventually(lambda: leader.leads, "it leads")

        async def down(_: Request, __: Forward) -> web.StreamResponse:
            return refusal(503, "ServiceUnavailable")

        wire.rule = down
        waiting = "waiting for the API server"
        eventually(lambda: waiting in [line["event"] for line in leader.events()], waiting)
        wire.rule = pass_on
        starts(stage)
        assert leader.process is not None
        assert leader.process.poll() is None
    finally:
        leader.kill()
