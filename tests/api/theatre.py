"""Where a run's life is lived again and again, and the operator killed at a point of it.

A module of its own because it knows how to kill between two writes and what must be the same
afterwards, and nothing of the lives: whoever adds one writes a `Script` and calls
`each_point_ends_the_same`.

A point is the moment after the API server carried out a write and before the operator heard of it.
That is the hardest moment of the whole stretch until the next write: whatever the process knew dies
with it, so dying later leaves the same state behind. Which points there are is found by an
undisturbed life, not written in a test. A point is named by its write and not by a number, because
on a busy machine two looks may become one, and then all numbers after it mean something else.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from tests.api.interception import Forward, Interceptor, Request, refusal
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.real_stage import RealStage
from tests.builders import ATraining

from lora_cluster.light import LightCluster
from lora_operator.builders.ownership import is_owned_by
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS

AT_ONCE = 3
QUIET_SECONDS = 1.0
# A life in which two looks became one lacks a write, and can't be ended there: another may.
TRIES = 3
# States that nobody waits for, because controllers or the next step of a script end them: on a busy
# machine no look may fall into one, and then there is no such point.
PASSING = frozenset({"Finishing", "PodPending", "PodStarting", "Retrying"})
PASSING_EVENTS = frozenset({"Pending", "Starting", "Uploading", "Retrying"})
Point = tuple[str, int]
"""A write's label, and how many writes of that label came before it."""


def _nothing(_: RealStage) -> None:
    """A life whose points are all its own."""


def _any(_: Point) -> bool:
    """A life in which nothing comes by the clock."""
    return True


@dataclass(frozen=True, kw_only=True)
class Script:
    """A life: what its user, its pods and whoever else plays in it do, one after the other."""

    training: ATraining
    live: Callable[[RealStage], object]
    """Plays the life to its end; it may wait only for what stays until it goes on itself."""
    is_its_own: Callable[[Point], bool] = _any
    """Whether a point belongs to the life; some writes come by the clock, or not at all."""
    begin: Callable[[RealStage], None] = _nothing
    """What comes first and another life has shown already: its points are left out."""


class Reaper:
    """The proxy's rule: after a certain write the operator dies, and another one starts."""

    def __init__(self, operator: Operator, *, deadly: Point | None) -> None:
        self.writes: list[str] = []
        self.strikes = False
        self.has_struck = False
        self._operator = operator
        self._deadly = deadly
        self._last_at = time.monotonic()

    async def __call__(self, request: Request, forward: Forward) -> web.StreamResponse:
        if not request.is_write:
            return await forward()
        label = _label(request)
        point = (label, self.writes.count(label))
        self.writes.append(label)
        self._last_at = time.monotonic()
        is_deadly = point == self._deadly and not self.strikes
        self.strikes = self.strikes or is_deadly
        answer = await forward()
        if not is_deadly:
            return answer
        await asyncio.to_thread(self._operator.kill)
        threading.Thread(target=self._succeed, daemon=True).start()
        return refusal(503, "Dead")  # nobody is there to read it

    def is_quiet(self) -> bool:
        return time.monotonic() - self._last_at > QUIET_SECONDS

    def _succeed(self) -> None:
        self._operator.start(wait=False)
        self.has_struck = True


def _label(request: Request) -> str:
    """What a write is about, the same in every life."""
    body: Object = json.loads(request.body or b"{}")
    status: Object = body.get("status", {})
    reasons = [c["reason"] for c in status.get("conditions", []) if c["type"] == "Running"]
    # A patch has the phase only where that changed, which depends on what was written before.
    ledger = body.get("spec", {}).get("runs") or ()
    states = sorted(f"{run['user']}:{run['state']}" for run in ledger)
    about = [body.get("reason"), *(reasons or [status.get("phase")]), *states]
    return " ".join([str(request), *filter(None, about)])


@dataclass(frozen=True)
class Life:
    """What is left of a life."""

    deadly: Point | None
    was_killed: bool
    writes: list[str]
    beginning: int
    """How many of the writes belong to what another life has shown."""
    truth: Object
    children: dict[str, list[str]]
    jobs_created: list[str]

    @property
    def points(self) -> list[Point]:
        """Where it can be ended, but for its beginning."""
        points = [(label, self.writes[:n].count(label)) for n, label in enumerate(self.writes)]
        return points[self.beginning :]

    @property
    def has_passed_by(self) -> bool:
        """Whether it was not killed because no look fell into a state that passes."""
        if self.was_killed or self.deadly is None:
            return False
        verb_and_kind, last = self.deadly[0].rsplit(" ", 1)
        return last in (PASSING_EVENTS if verb_and_kind == "POST events" else PASSING)

    @property
    def death(self) -> str:
        """For the message of a failed assertion."""
        return f"killed after write {self.deadly} of {self.writes}"


@dataclass(frozen=True)
class Theatre:
    """Where lives are lived, several at once: each in its own namespace, with its own operator."""

    cluster: LightCluster
    folder: Path
    api: ApiServer
    make_namespace: Callable[[], str]

    def each_point_ends_the_same(self, script: Script) -> None:
        """Live once undisturbed, then once for each of its points, killed there.

        Raises:
            AssertionError: Some end differs, a point was not reached, or a Job was made twice.
        """
        undisturbed = self._play(script)
        points = [point for point in undisturbed.points if script.is_its_own(point)]
        # A try to store may need several Jobs, one after the other; a training has each once.
        trainings = [name for name in undisturbed.jobs_created if "-train" in name]
        assert len(set(trainings)) == len(trainings)
        assert points, "the life has points of its own"
        with ThreadPoolExecutor(AT_ONCE) as pool:
            lives = list(pool.map(lambda point: self._end_at(script, point), points))
        for life in lives:
            assert life.was_killed or life.has_passed_by, life.death
            assert life.truth == undisturbed.truth, life.death
            assert life.children == undisturbed.children, life.death
            assert life.jobs_created == undisturbed.jobs_created, life.death
        passed_by = sum(life.has_passed_by for life in lives)
        writes = sum(len(life.writes) for life in lives)
        print(f"{len(lives)} points, {passed_by} of them passed by, {writes} writes")

    def _end_at(self, script: Script, point: Point) -> Life:
        """A life that is ended at a point."""
        for _ in range(TRIES):
            life = self._play(script, point)
            if life.was_killed:
                break
        return life

    def _play(self, script: Script, deadly: Point | None = None) -> Life:
        namespace = self.make_namespace()
        folder = self.folder / namespace
        folder.mkdir()
        wire = Interceptor(self.cluster.kubeconfig, folder)
        operator = Operator(wire.kubeconfig, "--no-leader-elect", f"--namespace={namespace}")
        reaper = wire.rule = Reaper(operator, deadly=deadly)
        stage = RealStage(self.api, script.training.in_namespace(namespace))
        try:
            operator.start()
            stage.apply()
            script.begin(stage)
            beginning = len(reaper.writes) if script.begin is not _nothing else 0
            script.live(stage)
            eventually(reaper.is_quiet, "nothing more is written")
            if reaper.strikes:
                eventually(lambda: reaper.has_struck, "another operator is started")
                eventually(
                    lambda: operator.ready, lambda: f"the next is ready: {operator.log.read_text()}"
                )
                eventually(reaper.is_quiet, "nothing more is written by it")
        except AssertionError as error:
            error.add_note(f"killed after {deadly} of {reaper.writes}: {operator.log.read_text()}")
            raise
        finally:
            operator.kill()
            wire.close()
        return Life(
            deadly=deadly,
            was_killed=reaper.strikes,
            writes=reaper.writes,
            beginning=beginning,
            truth=self._truth(stage),
            children=self._children(stage),
            jobs_created=self._jobs_created(namespace),
        )

    def _truth(self, stage: RealStage) -> Object:
        """A status without its moments and random names, which differ between any two lives."""
        run = self.api.get(TRAININGS, stage.namespace, stage.name)
        if run is None:
            return {}
        status = run["status"]
        names = (
            "phase",
            "attempts",
            "artifact",
            "failure",
            "jobName",
            "jobNumber",
            "memory",
            "partial",
        )
        conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
        return {**{name: status.get(name) for name in names}, "conditions": conditions}

    def _children(self, stage: RealStage) -> dict[str, list[str]]:
        """Claims and Jobs by name, pods by their Job; all of them must be the run's own."""
        run = self.api.get(TRAININGS, stage.namespace, stage.name)
        claims, jobs, pods = (self.api.list(kind, stage.namespace) for kind in (CLAIMS, JOBS, PODS))
        for child in claims + jobs:
            assert run is not None, "nothing outlives its run"
            assert is_owned_by(child, run["metadata"]["uid"]), child["metadata"]["name"]
        owners = {job["metadata"]["uid"]: job["metadata"]["name"] for job in jobs}
        return {
            CLAIMS.plural: _names(claims),
            JOBS.plural: _names(jobs),
            PODS.plural: sorted(owners[p["metadata"]["ownerReferences"][0]["uid"]] for p in pods),
        }

    def _jobs_created(self, namespace: str) -> list[str]:
        entries = map(json.loads, self.cluster.audit_log.read_text().splitlines())
        return sorted(
            entry["objectRef"]["name"]
            for entry in entries
            if entry["verb"] == "create"
            and entry.get("objectRef", {}).get("resource") == JOBS.plural
            and entry["objectRef"].get("namespace") == namespace
            and entry.get("responseStatus", {}).get("code") == 201
        )


def _names(bodies: Iterable[Object]) -> list[str]:
    return sorted(body["metadata"]["name"] for body in bodies)
