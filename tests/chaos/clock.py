"""The clock of the storm: looks every second whether the statuses are true, and who is doubled.

A module of its own because it looks while things die, and the verdict only afterwards.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypeVar

from kubernetes import client
from tests.chaos.ground import UNREACHABLE, Ground, Object
from tests.chaos.lateness import Lateness, Sight

from lora_demo.install import OPERATOR_NAMESPACE
from lora_operator.labels import RUN_LABEL

LOOK_SECONDS = 1.0
Child = TypeVar("Child", client.V1Pod, client.V1Job)


class Clock:
    """Watches how long statuses stay untrue, and how many pods a run has at once.

    Seconds in which nobody could have told do not count: the API server answered nobody, or all
    replicas of the operator were killed and the cluster had not started one again. A replica that
    ended by itself is no excuse.
    """

    def __init__(self, ground: Ground) -> None:
        self.lateness = Lateness()
        self.doubled: dict[str, str] = {}
        """Runs that had two pods at once, with their names."""
        self.without_operator_seconds = 0.0
        self._ground = ground
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._done.wait(LOOK_SECONDS):
            try:
                pods = self._ground.core.list_namespaced_pod(self._ground.namespace).items
                jobs = self._ground.batch.list_namespaced_job(self._ground.namespace).items
                runs = self._ground.runs()
                replicas = self._ground.core.list_namespaced_pod(OPERATOR_NAMESPACE).items
            except UNREACHABLE:
                continue
            now = time.monotonic()
            # A look that took long, or looks that failed: the time until now was nobody's fault.
            since, looked = now - looked, now
            blind = max(0.0, since - 3 * LOOK_SECONDS)
            if not any(map(has_started, replicas)):
                self.without_operator_seconds += since - blind
                blind = since
            self.lateness.excuse(blind)
            self._tell(self.lateness.look(now, sights(runs, jobs, pods)))
            self._count(pods)

    def _tell(self, late: Iterable[str]) -> None:
        for name in late:
            what = self.lateness.longest[name].untruth
            print(f"     {datetime.now(UTC):%H:%M:%S} {name} is late: {what}", flush=True)

    def _count(self, pods: Iterable[client.V1Pod]) -> None:
        for run, alive in _by_run(filter(_is_alive, pods)).items():
            if len(alive) > 1:
                self.doubled[run] = " and ".join(sorted(pod.metadata.name for pod in alive))


def sights(
    runs: dict[str, Object], jobs: Iterable[client.V1Job], pods: Iterable[client.V1Pod]
) -> dict[str, Sight]:
    """What one look shows of each run that is not being deleted."""
    jobs_of, pods_of = _by_run(jobs), _by_run(pods)
    return {
        name: _sight(run, jobs_of[name], pods_of[name])
        for name, run in runs.items()
        if "deletionTimestamp" not in run["metadata"]
    }


def _sight(run: Object, jobs: list[client.V1Job], pods: list[client.V1Pod]) -> Sight:
    spec, status = run["spec"], run.get("status", {})
    going = [job for job in jobs if not _ends(job)]
    has_stored = any(j.metadata.name.endswith("-upload") and "Complete" in _ends(j) for j in jobs)
    return Sight(
        phase=status.get("phase"),
        held_back=spec.get("suspend", False),
        cancelled="cancel" in spec,
        stores_later=bool(status.get("upload")) and not has_stored,
        jobs_going=len(going),
        jobs_finished=len(jobs) - len(going),
        pods_alive=sum(map(_is_alive, pods)),
        is_training=any(map(_is_training, pods)),
    )


def _by_run(items: Iterable[Child]) -> defaultdict[str, list[Child]]:
    found: defaultdict[str, list[Child]] = defaultdict(list)
    for item in items:
        found[item.metadata.labels[RUN_LABEL]].append(item)
    return found


def _ends(job: client.V1Job) -> set[str]:
    kinds = {c.type for c in job.status.conditions or () if c.status == "True"}
    return kinds & {"Complete", "Failed"}


def has_started(pod: client.V1Pod) -> bool:
    """Whether a container of the pod runs, or ever has."""
    return any(
        container.restart_count or container.state.running or container.state.terminated
        for container in pod.status.container_statuses or ()
    )


def _is_alive(pod: client.V1Pod) -> bool:
    return pod.status.phase not in {"Succeeded", "Failed"}


def _is_training(pod: client.V1Pod) -> bool:
    states = [container.state for container in pod.status.container_statuses or ()]
    return pod.metadata.deletion_timestamp is None and any(state.running for state in states)
