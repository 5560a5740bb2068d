"""Which pods are asked for their progress: a request from the operator is a thing to be stolen."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.builders import NOW, a_job, a_pod, a_training
from tests.sights import a_progress, seen

from lora_api.progress import Progress, Stage
from lora_operator.cache import Cache
from lora_operator.kube.resources import JOBS, PODS, TRAININGS
from lora_operator.metrics import Metrics
from lora_operator.moments import wall_clock
from lora_operator.puller import Answer, ProgressPuller, Target
from lora_operator.settings import ProgressRoute
from lora_operator.standstill import Standstill
from lora_operator.state.keys import Key

Object = dict[str, Any]
ADDRESS = "10.0.0.7"
SLOW_ADDRESS = "10.0.0.8"


class ScriptedPuller(ProgressPuller):
    """Hears what the test says instead of asking over the network; each round takes a second."""

    says: Progress | None = None
    is_reached = True
    seconds = 0

    def tell_time(self) -> ScriptedPuller:
        """By the test's clock from now on."""
        self.moved_at = Standstill(
            steady=lambda: self.seconds, wall=lambda: NOW + timedelta(seconds=self.seconds)
        )
        return self

    async def _ask(self, target: Target) -> Answer:
        del target
        return Answer(self.says, is_reached=self.says is not None or self.is_reached)

    def targets(self) -> list[Target]:
        """Whom it would ask, were all due."""
        return list(self._targets(self._cache.all(PODS)))

    async def pull_all(self) -> datetime | None:
        """One round; when the one pod that there is last moved."""
        self.seconds += 1
        for target in self.targets():
            await self._pull(target)
        return next(iter(self.moved_at.values()), None)


def a_puller(training: Object | None, job: Object | None, pod: Object) -> ScriptedPuller:
    cache = Cache()
    for resource, body in ((TRAININGS, training), (JOBS, job), (PODS, pod)):
        if body is not None:
            cache.put(resource, body)
    return ScriptedPuller(
        cache=cache,
        pods=cast("aiohttp.ClientSession", None),
        api=cast("aiohttp.ClientSession", None),
        server="",
        in_cluster=True,
        route=ProgressRoute.DIRECT,
        metrics=Metrics(),
        on_change=lambda _: None,
        now=wall_clock,
    ).tell_time()


def asked(training: Object | None, job: Object | None, pod: Object) -> list[str]:
    """Addresses that the puller would ask."""
    return [target.ip for target in a_puller(training, job, pod).targets()]


def running() -> Object:
    pod = a_pod().running().stored()
    pod["status"]["podIP"] = ADDRESS
    return pod


def owned_by(body: Object, uid: str) -> Object:
    body["metadata"]["ownerReferences"] = [{"uid": uid, "controller": True}] if uid else []
    return body


CASES: dict[str, tuple[Object | None, Object | None, Object, list[str]]] = {
    "a pod of a run's own Job is asked": (
        a_training().stored(),
        a_job().stored(),
        running(),
        [ADDRESS],
    ),
    "a pod that only carries our labels is not": (
        a_training().stored(),
        a_job().stored(),
        owned_by(running(), "a stranger's"),
        [],
    ),
    "a Job that only carries the right name lends its pods no trust": (
        a_training().stored(),
        owned_by(a_job().stored(), ""),
        running(),
        [],
    ),
    "neither does an earlier run's Job": (
        a_training().stored(),
        owned_by(a_job().stored(), "an earlier run's"),
        running(),
        [],
    ),
    "without a run nobody is asked": (None, a_job().stored(), running(), []),
    "without a Job nobody is asked": (a_training().stored(), None, running(), []),
}


@pytest.mark.parametrize("sentence", CASES)
def test_progress_requests_go_only_where_they_belong(sentence: str) -> None:
    training, job, pod, addresses = CASES[sentence]
    assert asked(training, job, pod) == addresses


async def test_a_trainer_moves_when_it_does_something_not_when_it_answers() -> None:
    puller = a_puller(a_training().stored(), a_job().stored(), running())
    puller.says = a_progress(Stage.TRAIN, 40)
    first = await puller.pull_all()
    assert first is not None
    assert await puller.pull_all() == first
    puller.says = a_progress(Stage.TRAIN, 40, at=NOW + timedelta(seconds=9))
    noted = await puller.pull_all()  # a sign of life that is no step
    assert noted is not None
    assert noted > first
    puller.says = a_progress(Stage.TRAIN, 41)
    second = await puller.pull_all()
    assert second is not None
    assert second > first


async def test_a_trainer_that_falls_silent_stands_still() -> None:
    puller = a_puller(a_training().stored(), a_job().stored(), running())
    puller.says = a_progress(Stage.TRAIN, 40)
    first = await puller.pull_all()
    puller.says = None
    assert await puller.pull_all() == first


async def test_silence_proves_nothing_about_a_trainer_that_never_could_be_asked() -> None:
    puller = a_puller(a_training().stored(), a_job().stored(), running())
    assert await puller.pull_all() is None


async def test_silence_counts_where_an_earlier_leader_was_answered() -> None:
    told = seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40).decide().status
    training = a_training().with_status(told).stored()
    puller = a_puller(training, a_job().stored(), running())
    assert await puller.pull_all() is not None


async def test_a_trainer_to_which_the_way_is_lost_does_not_stand_still() -> None:
    puller = a_puller(a_training().stored(), a_job().stored(), running())
    puller.says = a_progress(Stage.TRAIN, 40)
    await puller.pull_all()
    puller.says, puller.is_reached = None, False
    first, *_, last = [still_for(await puller.pull_all(), puller) for _ in range(900)]
    assert (first, last) == (0, 0)
    # There is a way again: an answer proves what it did meanwhile, also where that was nothing.
    puller.says = a_progress(Stage.TRAIN, 40)
    assert still_for(await puller.pull_all(), puller) == 901


async def test_silence_counts_while_another_trainer_of_the_namespace_answers() -> None:
    seconds = 0
    still = Standstill(steady=lambda: seconds, wall=lambda: NOW + timedelta(seconds=seconds))
    for name, place in (("silent", "studio"), ("witness", "studio"), ("far", "elsewhere")):
        still.note(name)
        still.answered(name, place=place)
    for seconds in range(1, 31):
        # Ten seconds with a witness, ten in which only another namespace is heard, ten with one.
        if 10 < seconds <= 20:
            still.silent("witness", place="studio", is_its_own=False)
        else:
            still.answered("witness", place="studio")
        still.answered("far", place="elsewhere")
        still.silent("silent", place="studio", is_its_own=False)
    assert still["silent"] == NOW + timedelta(seconds=10)


@pytest.mark.parametrize(("hung", "seconds"), [(2, 2), (3, 30)])
def test_a_trainer_that_hangs_counts_though_it_can_not_be_reached_any_more(
    hung: int, seconds: float
) -> None:
    now = 0
    still = Standstill(steady=lambda: now, wall=lambda: NOW + timedelta(seconds=now))
    still.note("pod")
    still.answered("pod", place="studio")
    for now in range(1, 31):
        still.silent("pod", place="studio", is_its_own=now <= hung)
    assert NOW + timedelta(seconds=now) - still["pod"] == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("route", "sentence", "is_reached"),
    [
        ("direct", "takes the question and says nothing", True),
        ("direct", "says that it can't", False),
        ("direct", "is not there", False),
        ("proxy", "takes the question and says nothing", False),
        ("proxy", "says that it can't", False),
    ],
)
async def test_silence_is_a_trainers_own_where_it_was_reached(
    route: str, sentence: str, is_reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_operator.puller.TIMEOUT", aiohttp.ClientTimeout(total=0.2))

    async def answer(_: web.Request) -> web.Response:
        if "nothing" in sentence:
            await asyncio.sleep(1)
        return web.Response(status=503)

    served = web.Application()
    served.router.add_get("/progress", answer)
    puller = a_puller(a_training().stored(), a_job().stored(), running())
    async with TestServer(served) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("/progress"))
        if "not there" in sentence:
            url = "http://127.0.0.1:1/progress"
        found = await puller._get(route, session, url)
    assert (found.told, found.is_reached) == (None, is_reached)


async def test_a_pod_that_answers_by_the_proxy_alone_moves_no_other_there() -> None:
    puller = RoutedPuller(
        cache=Cache(),
        pods=cast("aiohttp.ClientSession", None),
        api=cast("aiohttp.ClientSession", None),
        server="",
        in_cluster=True,
        route=ProgressRoute.AUTO,
        metrics=Metrics(),
        on_change=lambda _: None,
        now=wall_clock,
    )
    slow = Target(Key("studio", "slow"), "slow", "uid-of-slow", SLOW_ADDRESS)
    quick = Target(Key("studio", "quick"), "quick", "uid-of-quick", ADDRESS)
    for target in (slow, quick, slow, quick):
        assert (await puller._ask(target)).told is not None
    assert list(puller.ways) == ["direct", "proxy", "direct", "proxy", "direct"]
    puller.keep_only({"uid-of-quick"})
    await puller._ask(slow)
    assert list(puller.ways)[5:] == ["direct", "proxy"]


async def test_who_answers_is_asked_on_whoever_hangs() -> None:
    """With as many as there are questions in a second; none of them ever ends."""
    cache = Cache()
    answers = asyncio.Event()

    class HangingPuller(ScriptedPuller):
        asked: tuple[str, ...] = ()

        async def _ask(self, target: Target) -> Answer:
            self.asked += (target.pod_name,)
            if target.pod_name != "anna-train-x1":
                await asyncio.Event().wait()
            if self.asked.count(target.pod_name) == 4:
                answers.set()
            return Answer(a_progress(Stage.TRAIN, 40), is_reached=True)

    puller = HangingPuller(
        cache=cache,
        pods=cast("aiohttp.ClientSession", None),
        api=cast("aiohttp.ClientSession", None),
        server="",
        in_cluster=True,
        route=ProgressRoute.DIRECT,
        metrics=Metrics(),
        on_change=lambda _: None,
        now=wall_clock,
    )
    for resource, body in ((TRAININGS, a_training().stored()), (JOBS, a_job().stored())):
        cache.put(resource, body)
    cache.put(PODS, running())
    for target in puller.targets():
        await puller._pull(target)
    for number in range(200):
        pod = a_pod().named(f"anna-train-h{number}").running().stored()
        pod["status"]["podIP"] = ADDRESS
        cache.put(PODS, pod)
    asking = asyncio.create_task(puller.run())
    await asyncio.wait_for(answers.wait(), timeout=60)
    assert len(set(puller.asked)) > 1
    asking.cancel()


class RoutedPuller(ProgressPuller):
    """Notes by which way it asks; one pod answers by the proxy alone."""

    ways: tuple[str, ...] = ()

    async def _get(self, route: str, session: aiohttp.ClientSession, url: str) -> Answer:
        del session
        self.ways += (route,)
        if SLOW_ADDRESS in url:
            return Answer(is_timeout=True)
        return Answer(a_progress(Stage.TRAIN, 40))


def still_for(moved_at: datetime | None, puller: ScriptedPuller) -> float:
    assert moved_at is not None
    return (NOW + timedelta(seconds=puller.seconds) - moved_at).total_seconds()
