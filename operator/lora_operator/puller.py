"""Asking running trainers how far they are, at a pace that adapts to how many there are.

A module of its own because it reads what users' pods say: every bound on that (size, time, number
of requests, where they may go) is here.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import aiohttp
from pydantic import ValidationError

from lora_api.job import PROGRESS_PORT
from lora_api.progress import MAX_PROGRESS_BYTES, Progress
from lora_api.reasons import Reason
from lora_api.status import ConditionType
from lora_operator.agenda import ROUND_SECONDS, Agenda
from lora_operator.builders.ownership import is_owned_by
from lora_operator.cache import Cache, run_of
from lora_operator.kube.resources import JOBS, PODS, TRAININGS
from lora_operator.metrics import Metrics
from lora_operator.moments import Moments
from lora_operator.rules.running import LONGEST_SILENCE, is_worth_writing
from lora_operator.settings import ProgressRoute
from lora_operator.state.keys import Key, Object
from lora_operator.state.reading import read_run

TIMEOUT_SECONDS = 2.0
AT_ONCE = 64
# That a run makes steps is written every so many seconds, however few they are of a percent. With
# more runs than this per second of it, more seldom: percents are worth more than steps.
STEPS_WRITTEN_PER_SECOND = 100
# After the direct way timed out and the proxy worked, the direct way is left alone for a while.
PREFER_PROXY_SECONDS = 300.0


class Target(NamedTuple):
    """One running trainer."""

    run: Key
    pod_name: str
    pod_uid: str
    ip: str


class ProgressPuller:
    """Fills `progress_of` (by pod uid) and asks for a look where it is worth a write."""

    def __init__(
        self,
        *,
        cache: Cache,
        pods: aiohttp.ClientSession,
        api: aiohttp.ClientSession,
        server: str,
        in_cluster: bool,
        route: ProgressRoute,
        metrics: Metrics,
        on_change: Callable[[Key], None],
        now: Callable[[], datetime],
    ) -> None:
        """Wire the puller.

        Args:
            cache: Where the running pods are found.
            pods: Session for requests to pods; must not carry credentials.
            api: Authorised session for the API server's pod proxy.
            server: Base URL of the API server.
            in_cluster: Whether pod addresses can be reached at all.
            route: What the user wants.
            metrics: Where requests are counted.
            on_change: Told the run whose progress is worth a write.
            now: The time that decisions are made by.
        """
        self.progress_of: dict[str, Progress] = {}
        self.moved_at = Moments(wall=now)
        """When what a pod tells last changed, by our clock and by pod uid."""
        self._cache = cache
        self._pods = pods
        self._api = api
        self._server = server
        self._route = route
        if route is ProgressRoute.AUTO and not in_cluster:
            self._route = ProgressRoute.PROXY
        self._metrics = metrics
        self._on_change = on_change
        self._now = now
        self._agenda = Agenda()
        self._running = 0
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._proxy_until = float("-inf")

    async def run(self) -> None:
        """Ask forever, round by round."""
        while True:
            begun = time.monotonic()
            pods = {pod["metadata"]["uid"]: pod for pod in self._cache.all(PODS) if _answers(pod)}
            self._running = len(pods)
            due = self._agenda.take(pods, begun)
            await asyncio.gather(
                *(self._pull(target) for target in self._targets(pods[uid] for uid in due))
            )
            self.moved_at.keep_only(set(pods))
            for uid in self.progress_of.keys() - pods.keys():
                del self.progress_of[uid]
            await asyncio.sleep(max(0.1, ROUND_SECONDS - (time.monotonic() - begun)))

    def _targets(self, pods: Iterable[Object]) -> Iterator[Target]:
        for pod in pods:
            run = run_of(PODS, pod)
            if run is not None and self._is_trainer(pod, run):
                meta = pod["metadata"]
                yield Target(run, meta["name"], meta["uid"], pod["status"]["podIP"])

    def _is_trainer(self, pod: Object, run: Key) -> bool:
        """Whether the pod belongs to the Job that we made for the run.

        Users can put any label on a pod and any name on a Job; without this whole chain of owners
        a pod in the node's network would have us ask the node.
        """
        training = self._cache.get(TRAININGS, run)
        return training is not None and any(
            is_owned_by(job, training["metadata"]["uid"])
            and is_owned_by(pod, job["metadata"]["uid"])
            for job in self._cache.children(run, JOBS)
        )

    async def _pull(self, target: Target) -> None:
        async with self._slots:
            told = await self._ask(target)
        if told is not None:
            self._agenda.heard(target.pod_uid, told, time.monotonic())
        known = self.progress_of.get(target.pod_uid)
        body = self._cache.get(TRAININGS, target.run)
        if told is None:
            if body is not None and _was_asked_before(body, target):
                self.moved_at.note_first(target.pod_uid)
            return
        if known is None or _moved(known, told):
            self.moved_at.note(target.pod_uid)
        if told == known:
            return
        self.progress_of[target.pod_uid] = told
        if body is not None and self._is_worth_a_look(body, told):
            self._on_change(target.run)

    def _is_worth_a_look(self, body: Object, told: Progress) -> bool:
        silence = max(LONGEST_SILENCE, timedelta(seconds=self._running / STEPS_WRITTEN_PER_SECOND))
        known = read_run(body).status.progress
        return is_worth_writing(known, told, self._now(), silence=silence)

    async def _ask(self, target: Target) -> Progress | None:
        if self._route is ProgressRoute.PROXY or time.monotonic() < self._proxy_until:
            return (await self._get("proxy", self._api, self._proxy_url(target)))[0]
        told, unreachable = await self._get("direct", self._pods, _direct_url(target))
        if unreachable and self._route is ProgressRoute.AUTO:
            told, _ = await self._get("proxy", self._api, self._proxy_url(target))
            if told is not None:
                self._proxy_until = time.monotonic() + PREFER_PROXY_SECONDS
        return told

    async def _get(
        self, route: str, session: aiohttp.ClientSession, url: str
    ) -> tuple[Progress | None, bool]:
        """Progress if it could be read, and whether nobody answered at all."""
        told, outcome = None, "ok"
        try:
            async with session.get(
                url,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    outcome = f"http_{response.status // 100}xx"
                else:
                    told = Progress.model_validate_json(await _read_bounded(response))
        except (ValidationError, ValueError):
            outcome = "invalid"
        except TimeoutError:
            outcome = "timeout"
        except aiohttp.ClientError:
            # A trainer that has not opened its port yet refuses: no reason to try elsewhere.
            outcome = "refused"
        self._metrics.progress_pulls.labels(route, outcome).inc()
        return told, outcome == "timeout"

    def _proxy_url(self, target: Target) -> str:
        path = PODS.path(target.run.namespace, f"{target.pod_name}:{PROGRESS_PORT}", "proxy")
        return f"{self._server}{path}/progress"


def _answers(pod: Object) -> bool:
    status = pod.get("status", {})
    return bool(status.get("phase") == "Running" and status.get("podIP"))


def _direct_url(target: Target) -> str:
    host = f"[{target.ip}]" if ":" in target.ip else target.ip
    return f"http://{host}:{PROGRESS_PORT}/progress"


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    data = b""
    async for chunk in response.content.iter_chunked(MAX_PROGRESS_BYTES):
        data += chunk
        if len(data) > MAX_PROGRESS_BYTES:
            raise ValueError("the progress document is too long")
    return data


def _moved(known: Progress, told: Progress) -> bool:
    """Whether the trainer has done anything; that it answers proves nothing.

    It notes the time of each sign of life, also of a piece of work that is no percent of a stage.
    """
    return (known.stage, known.stage_percent, known.step, known.updated_at) != (
        told.stage,
        told.stage_percent,
        told.step,
        told.updated_at,
    )


def _was_asked_before(body: Object, target: Target) -> bool:
    """Whether this pod could once be asked, by us or by an earlier leader.

    Silence counts against a trainer only then: that we have no way to it is not its fault.
    """
    status = body.get("status", {})
    return status.get("podName") == target.pod_name and any(
        condition["type"] == ConditionType.RUNNING
        and condition["status"] == "True"
        and condition["reason"] != Reason.RUNNING
        for condition in status.get("conditions", [])
    )
