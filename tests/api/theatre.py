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

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.api.interception import Interceptor
from tests.api.operator_process import ApiServer, Object, eventually
from tests.api.real_stage import RealStage
from tests.api.reaper import REFUSED, Point, Reaper, Trainer
from tests.api.warm_operator import WarmOperator
from tests.builders import ATraining

from lora_cluster.light import LightCluster
from lora_operator.builders.ownership import is_owned_by
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS

AT_ONCE = 3
# A life in which two looks became one lacks a write, and can't be ended there: another may.
TRIES = 3
# States that nobody waits for, because controllers or the next step of a script end them: on a busy
# machine no look may fall into one, and then there is no such point.
PASSING = frozenset({"Finishing", "PodPending", "PodStarting", "Retrying"})
PASSING_EVENTS = frozenset({"Pending", "Starting", "Uploading", "Retrying"})


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
    crowd: tuple[str, ...] = ()
    """Further runs that are there before the operator is, as this one then is."""
    options: tuple[str, ...] = ()
    """What the operator is told besides."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Limits of the operator that would take too long, by module and name."""
    trainer: Trainer | None = None
    """What trainers tell where they are asked; by default nobody answers for them."""


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
        # How often something is tried in vain depends on the clock.
        return [
            (label, earlier)
            for label, earlier in points[self.beginning :]
            if not (label.endswith(REFUSED) and earlier)
        ]

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

    def each_point_ends_the_same(self, script: Script) -> Life:
        """Live once undisturbed, then once for each of its points, killed there.

        Returns:
            The undisturbed life.

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
        return undisturbed

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
        options = ("--no-leader-elect", f"--namespace={namespace}", *script.options)
        operator = WarmOperator(wire.kubeconfig, *options, constants=script.constants)
        reaper = wire.rule = Reaper(operator, deadly=deadly, trainer=script.trainer)
        stage = RealStage(self.api, script.training.in_namespace(namespace))
        others = [RealStage(self.api, stage.training.named(name)) for name in script.crowd]
        try:
            for crowd in (*others, *([stage] if others else [])):
                crowd.apply()
            operator.start()
            if not others:
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
            "stalls",
        )
        conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
        return {**{name: status.get(name) for name in names}, "conditions": conditions}

    def _children(self, stage: RealStage) -> dict[str, list[str]]:
        """Claims and Jobs by name, pods by their Job; each must belong to a run that exists."""
        runs = {run["metadata"]["uid"] for run in self.api.list(TRAININGS, stage.namespace)}
        claims, jobs, pods = (self.api.list(kind, stage.namespace) for kind in (CLAIMS, JOBS, PODS))
        for child in claims + jobs:
            owned = any(is_owned_by(child, uid) for uid in runs)
            assert owned, f"{child['metadata']['name']} outlived its run"
        owners = {job["metadata"]["uid"]: job["metadata"]["name"] for job in jobs}
        return {
            CLAIMS.plural: _names(claims),
            JOBS.plural: _names(jobs),
            PODS.plural: sorted(owners[p["metadata"]["ownerReferences"][0]["uid"]] for p in pods),
        }

    def _jobs_created(self, namespace: str) -> list[str]:
        """Names of all Jobs that were ever created there; the log's older parts count, too."""
        folder, told = self.cluster.audit_log.parent, f'"{namespace}"'.encode()
        lines = [
            line
            for log in folder.glob(f"{self.cluster.audit_log.stem}*")
            for line in log.read_bytes().splitlines()
            if told in line
        ]
        return sorted(
            entry["objectRef"]["name"]
            for entry in map(json.loads, lines)
            if entry["verb"] == "create"
            and entry.get("objectRef", {}).get("resource") == JOBS.plural
            and entry["objectRef"].get("namespace") == namespace
            and entry.get("responseStatus", {}).get("code") == 201
        )


def _names(bodies: Iterable[Object]) -> list[str]:
    return sorted(body["metadata"]["name"] for body in bodies)
