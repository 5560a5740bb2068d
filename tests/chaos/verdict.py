"""The verdict: what the API server's audit log, the bucket and the runs say after the storm.

A module of its own because it believes no status that it has not compared with something else.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from kubernetes import client
from tests.chaos.ground import UNREACHABLE, Ground, Object, persist
from tests.chaos.lateness import JobSight, Lateness

from lora_operator.labels import RUN_LABEL

ENDED = {"Completed", "Failed", "Cancelled"}
LOOK_SECONDS = 1.0


class Clock:
    """Watches how long after its last Job's end the status of a run tells of it.

    Seconds in which the API server answered nobody do not count: it could not have been told.
    """

    def __init__(self, ground: Ground) -> None:
        self.lateness = Lateness()
        self._ground = ground
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._done.wait(LOOK_SECONDS):
            try:
                jobs = self._ground.batch.list_namespaced_job(self._ground.namespace).items
                runs = self._ground.runs()
            except UNREACHABLE:
                continue
            now = time.monotonic()
            # A look that took long, or looks that failed: the time until now was nobody's fault.
            blind, looked = max(0.0, now - looked - 3 * LOOK_SECONDS), now
            self.lateness.excuse(blind)
            ended = {name for name, run in runs.items() if _phase(run) in ENDED}
            self.lateness.look(now, map(_sight, jobs), ended)


def _sight(job: client.V1Job) -> JobSight:
    kinds = {c.type for c in job.status.conditions or () if c.status == "True"}
    return JobSight(
        run=job.metadata.labels[RUN_LABEL],
        uid=job.metadata.uid,
        finished=bool(kinds & {"Complete", "Failed"}),
    )


def _phase(run: Object) -> str | None:
    phase: str | None = run.get("status", {}).get("phase")
    return phase


@dataclass
class Verdict:
    """What was found; each entry names its run."""

    kills: Counter[str]
    runs: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    attempts: int = 0

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.stuck or self.missing or self.late)

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"kills {self.kills.total()} ({kinds}), runs {self.runs}, attempts {self.attempts}, "
            f"lost {len(self.lost)}, doubled {len(self.doubled)}, stuck {len(self.stuck)}, "
            f"artifacts missing {len(self.missing)}, statuses late {len(self.late)} "
            f"(slowest {self.slowest_seconds:.0f} s)"
        )


def judge(ground: Ground, names: list[str], kills: Counter[str], clock: Clock) -> Verdict:
    """Compare everything with everything."""
    verdict = Verdict(kills=kills, runs=len(names))
    runs = persist(ground.runs)
    stored = persist(ground.stored)
    for name in names:
        status = runs.get(name, {}).get("status", {})
        verdict.attempts += status.get("attempts", 0)
        phase = status.get("phase")
        if phase == "Completed":
            artifact = status["artifact"]
            content = stored.get(artifact["uri"], b"")
            if "sha256:" + hashlib.sha256(content).hexdigest() != artifact["digest"]:
                verdict.missing.append(name)
        elif phase in ENDED or not status:
            verdict.lost.append(f"{name}: {phase} {status.get('message')}")
        else:
            verdict.stuck.append(f"{name}: {phase} {status.get('message')}")
    verdict.doubled += [f"{uri}: two pods at once" for uri in stored if "/doubled-" in uri]
    for job, count in jobs_created(ground).items():
        if count > 1:
            verdict.doubled.append(f"Job {job} was created {count} times")
    verdict.slowest_seconds = max(clock.lateness.seconds.values(), default=0.0)
    verdict.late = [name for name, late in clock.lateness.seconds.items() if late > 30]
    return verdict


def jobs_created(ground: Ground) -> Counter[str]:
    """How often each Job was created, ever."""
    return Counter(
        entry["objectRef"]["name"]
        for entry in _audited(ground)
        if entry["verb"] == "create"
        and entry["objectRef"].get("resource") == "jobs"
        and entry["objectRef"].get("namespace") == ground.namespace
        and entry.get("responseStatus", {}).get("code") == 201
    )


def _audited(ground: Ground) -> Iterator[Object]:
    """The whole audit log, what was rotated away included."""
    log = ground.audit_log
    for file in sorted(log.parent.glob(f"{log.stem}*{log.suffix}")):
        for line in file.read_text().splitlines():
            # A killed API server may leave half a line.
            with suppress(ValueError):
                entry: Object = json.loads(line)
                if "objectRef" in entry:
                    yield entry
