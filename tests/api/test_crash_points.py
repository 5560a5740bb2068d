"""The operator killed between each two consecutive writes of a run's life; the next one finishes.

A point is the moment after the API server carried out a write and before the operator heard of it.
That is the hardest moment of the whole stretch until the next write: whatever the process knew dies
with it, so dying later leaves the same state behind. Which points there are is found by an
undisturbed life, not written here. A point is named by its write and not by a number, because on a
busy machine two looks may become one, and then all numbers after it mean something else.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from tests.api.interception import Forward, Interceptor, Request, refusal
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_training

from lora_cluster.light import LightCluster
from lora_operator.builders.ownership import is_owned_by
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS

pytestmark = pytest.mark.api
AT_ONCE = 3
QUIET_SECONDS = 1.0
# A life in which two looks became one lacks a write, and can't be ended there: another may.
TRIES = 5
Point = tuple[str, int]
"""A write's label, and how many writes of that label came before it."""


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
    about = [body.get("reason"), status.get("phase"), *reasons]
    return " ".join([str(request), *filter(None, about)])


@dataclass(frozen=True)
class Life:
    """What is left of a life."""

    deadly: Point | None
    was_killed: bool
    writes: list[str]
    truth: Object
    children: dict[str, set[str]]
    jobs_created: int

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

    def end_at(self, point: Point) -> Life:
        """A life that is ended at a point."""
        for _ in range(TRIES):
            life = self.play(point)
            if life.was_killed:
                break
        return life

    def play(self, deadly: Point | None = None) -> Life:
        namespace = self.api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
        folder = self.folder / namespace
        folder.mkdir()
        wire = Interceptor(self.cluster.kubeconfig, folder)
        operator = Operator(wire.kubeconfig, "--no-leader-elect", f"--namespace={namespace}")
        reaper = wire.rule = Reaper(operator, deadly=deadly)
        stage = Stage(self.api, a_training().in_namespace(namespace))
        try:
            operator.start()
            stage.live()
            eventually(reaper.is_quiet, "nothing more is written")
            if reaper.strikes:
                eventually(lambda: reaper.has_struck, "another operator is started")
                eventually(lambda: operator.ready, "the next operator is ready")
                eventually(reaper.is_quiet, "nothing more is written by it")
        finally:
            operator.kill()
            wire.close()
        return Life(
            deadly=deadly,
            was_killed=reaper.strikes,
            writes=reaper.writes,
            truth=_truth(stage.status),
            children=self._children(stage),
            jobs_created=self._jobs_created(namespace),
        )

    def _children(self, stage: Stage) -> dict[str, set[str]]:
        """Names of the children of each kind, all of which must be the run's own."""
        run = self.api.get(TRAININGS, stage.namespace, stage.name)
        assert run is not None
        (job,) = self.api.list(JOBS, stage.namespace)
        for child, owner in (
            *((claim, run) for claim in self.api.list(CLAIMS, stage.namespace)),
            *((pod, job) for pod in self.api.list(PODS, stage.namespace)),
            (job, run),
        ):
            assert is_owned_by(child, owner["metadata"]["uid"]), child["metadata"]["name"]
        return {
            kind.plural: {b["metadata"]["name"] for b in self.api.list(kind, stage.namespace)}
            for kind in (CLAIMS, JOBS, PODS)
        }

    def _jobs_created(self, namespace: str) -> int:
        entries = map(json.loads, self.cluster.audit_log.read_text().splitlines())
        return sum(
            entry["verb"] == "create"
            and entry.get("objectRef", {}).get("resource") == "jobs"
            and entry["objectRef"].get("namespace") == namespace
            and entry.get("responseStatus", {}).get("code") == 201
            for entry in entries
        )


def _truth(status: Object) -> Object:
    """A status without its moments, which differ between any two lives."""
    told = {
        name: status.get(name) for name in ("phase", "attempts", "artifact", "failure", "podName")
    }
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    return {**told, "conditions": conditions}


@pytest.fixture
def theatre(light_cluster: LightCluster, tmp_path: Path) -> Theatre:
    return Theatre(light_cluster, tmp_path, ApiServer(light_cluster.kubeconfig))


def test_killed_after_any_write_the_next_operator_ends_at_the_same(theatre: Theatre) -> None:
    undisturbed = theatre.play()
    assert undisturbed.jobs_created == 1
    writes = undisturbed.writes
    points = [(label, writes[:number].count(label)) for number, label in enumerate(writes)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        lives = list(pool.map(theatre.end_at, points))
    for life in lives:
        assert life.was_killed, life.death
        assert life.truth == undisturbed.truth, life.death
        assert life.children == undisturbed.children, life.death
        assert life.jobs_created == 1, life.death
    print(f"{len(lives)} points, {sum(len(life.writes) for life in lives)} writes")
