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
from lora_operator.builders.ownership import is_owned_by, is_pod_of
from lora_operator.cache import Cache, run_of
from lora_operator.kube.resources import JOBS, PODS, TRAININGS
from lora_operator.metrics import Metrics
from lora_operator.rules.running import LONGEST_SILENCE, is_worth_writing
from lora_operator.settings import ProgressRoute
from lora_operator.standstill import Standstill
from lora_operator.state.keys import Key, Object
from lora_operator.state.reading import read_run

TIMEOUT_SECONDS = 2.0
# A connection that is not made says that there is no way; one that is, and then nothing, that the
# trainer hangs.
TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=TIMEOUT_SECONDS / 2)
# How many questions may be on their way: to those who mostly answer, in milliseconds, and apart
# from them to those who never did or fell silent, where each may take all the time there is. So a
# pod that takes a connection and says nothing delays nobody who answers.
AT_ONCE = 128
UNPROVEN_AT_ONCE = 64
# That a run makes steps is written every so many seconds, however few they are of a percent. With
# more runs than this per second of it, more seldom: percents are worth more than steps.
STEPS_WRITTEN_PER_SECOND = 100
# After the direct way to a pod timed out and the proxy worked, it is left alone for a while.
PREFER_PROXY_SECONDS = 300.0


class Target(NamedTuple):
    """One running trainer."""

    run: Key
    pod_name: str
    pod_uid: str
    ip: str


class Answer(NamedTuple):
    """What became of one question."""

    told: Progress | None = None
    """What could be read."""
    is_reached: bool = False
    """Whether the trainer itself took the question, so that its silence is its own."""
    is_timeout: bool = False
    """Whether the time was over before anything was said."""


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
        self.moved_at = Standstill(wall=now)
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
        self._unproven_slots = asyncio.Semaphore(UNPROVEN_AT_ONCE)
        self._being_asked: set[str] = set()
        self._proxy_until: dict[str, float] = {}

    async def run(self) -> None:
        """Ask forever, each pod by its own schedule: nobody waits for anybody else's answer."""
        async with asyncio.TaskGroup() as questions:
            while True:
                begun = time.monotonic()
                pods = {p["metadata"]["uid"]: p for p in self._cache.all(PODS) if _answers(p)}
                self._running = len(pods)
                due = self._agenda.take(pods, begun) - self._being_asked
                for target in self._targets(pods[uid] for uid in due):
                    self._being_asked.add(target.pod_uid)
                    questions.create_task(self._pull_in_turn(target))
                self.keep_only(set(pods))
                await asyncio.sleep(max(0.1, ROUND_SECONDS - (time.monotonic() - begun)))

    def keep_only(self, running: set[str]) -> None:
        """Forget all pods but these, by uid."""
        self.moved_at.keep_only(running)
        for known in (self.progress_of, self._proxy_until):
            for uid in known.keys() - running:
                del known[uid]

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
            is_owned_by(job, training["metadata"]["uid"]) and is_pod_of(pod, job["metadata"]["uid"])
            for job in self._cache.children(run, JOBS)
        )

    async def _pull_in_turn(self, target: Target) -> None:
        is_proven = target.pod_uid in self.progress_of and not self._agenda.is_silent(
            target.pod_uid
        )
        try:
            async with self._slots if is_proven else self._unproven_slots:
                await self._pull(target)
        finally:
            self._being_asked.discard(target.pod_uid)

    async def _pull(self, target: Target) -> None:
        answer = await self._ask(target)
        told = answer.told
        self._weigh(target, answer)
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

    def _weigh(self, target: Target, answer: Answer) -> None:
        uid, place = target.pod_uid, target.run.namespace
        if answer.told is None:
            self.moved_at.silent(uid, place=place, is_its_own=answer.is_reached)
            if answer.is_timeout:
                self._agenda.hung(uid, time.monotonic())
            return
        self.moved_at.answered(uid, place=place)
        self._agenda.heard(uid, answer.told, time.monotonic())

    def _is_worth_a_look(self, body: Object, told: Progress) -> bool:
        silence = max(LONGEST_SILENCE, timedelta(seconds=self._running / STEPS_WRITTEN_PER_SECOND))
        known = read_run(body).status.progress
        return is_worth_writing(known, told, self._now(), silence=silence)

    async def _ask(self, target: Target) -> Answer:
        if self._route is ProgressRoute.PROXY or self._prefers_proxy(target):
            return await self._get("proxy", self._api, self._proxy_url(target))
        answer = await self._get("direct", self._pods, _direct_url(target))
        if answer.is_timeout and self._route is ProgressRoute.AUTO:
            by_proxy = await self._get("proxy", self._api, self._proxy_url(target))
            if by_proxy.told is not None:
                self._proxy_until[target.pod_uid] = time.monotonic() + PREFER_PROXY_SECONDS
                return by_proxy
        return answer

    def _prefers_proxy(self, target: Target) -> bool:
        """Of this pod alone: one that is slow must not send all the others by the API server."""
        return time.monotonic() < self._proxy_until.get(target.pod_uid, float("-inf"))

    async def _get(self, route: str, session: aiohttp.ClientSession, url: str) -> Answer:
        told, outcome, is_reached = None, "ok", False
        try:
            async with session.get(url, timeout=TIMEOUT, allow_redirects=False) as response:
                is_reached = response.status == 200
                if not is_reached:
                    outcome = f"http_{response.status // 100}xx"
                else:
                    told = Progress.model_validate_json(await _read_bounded(response))
        except (ValidationError, ValueError):
            outcome = "invalid"
        except TimeoutError as error:
            outcome = "timeout"
            is_reached = not isinstance(error, aiohttp.ConnectionTimeoutError)
        except aiohttp.ClientError:
            # A trainer that has not opened its port yet refuses: no reason to try elsewhere.
            outcome = "refused"
        self._metrics.progress_pulls.labels(route, outcome).inc()
        # Of what somebody in between says (the API server, a mesh) nobody knows how far it got.
        is_reached = told is not None or (is_reached and route == "direct")
        return Answer(told, is_reached, outcome == "timeout")

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
