"""Which pods are asked for their progress: a request from the operator is a thing to be stolen."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

import aiohttp
import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.sights import a_progress, seen

from lora_api.progress import Progress, Stage
from lora_operator.cache import Cache
from lora_operator.kube.resources import JOBS, PODS, TRAININGS
from lora_operator.metrics import Metrics
from lora_operator.moments import Moments, wall_clock
from lora_operator.puller import ProgressPuller, Target
from lora_operator.settings import ProgressRoute

Object = dict[str, Any]
ADDRESS = "10.0.0.7"


class ScriptedPuller(ProgressPuller):
    """Hears what the test says instead of asking over the network; each round takes a second."""

    says: Progress | None = None
    seconds = 0

    def tell_time(self) -> ScriptedPuller:
        """By the test's clock from now on."""
        self.moved_at = Moments(
            steady=lambda: self.seconds, wall=lambda: NOW + timedelta(seconds=self.seconds)
        )
        return self

    async def _ask(self, target: Target) -> Progress | None:
        del target
        return self.says

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
