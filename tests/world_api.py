"""The small world as an API server, for an operator that has a cache of its own.

A module of its own because the world knows what is true, and this what can be read of it: JSON of
Kubernetes with versions, answers that refuse, and writes that are compared with what is there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import aiohttp

from lora_operator.builders.ownership import metadata
from lora_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS, Resource
from lora_operator.labels import QUEUE_LABEL, RESUMED_ANNOTATION, labels_of
from lora_operator.state.views import Claim, Container, Job, Pod, Run
from tests.builders import RUN_UID
from tests.dictionary_api import merged
from tests.world import APodInTheWorld, World

Object = dict[str, Any]
OnWrite = Callable[[str, Resource | None, str, Object], None]
"""Told verb, kind (None for events), name and body of a write; may refuse by raising."""


class WorldApi(KubeClient):
    """What the operator's client can ask of the world, and do to it."""

    def __init__(self, world: World, *, before: OnWrite, after: Callable[[], None]) -> None:
        """Stand in front of a world.

        Args:
            world: What is true.
            before: Told of each write before it is carried out.
            after: Called once it is, and before the operator hears of it.
        """
        super().__init__(session=cast("aiohttp.ClientSession", None), server="")
        self._world = world
        self._before = before
        self._after = after
        self._known: dict[tuple[Resource, str], tuple[int, Object]] = {}
        self._specs: dict[str, Object] = {}
        self._version = 0

    def all(self, resource: Resource) -> list[Object]:
        """What there is of a kind."""
        return [self._versioned(resource, body) for body in self._bodies(resource)]

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        del namespace
        found = [body for body in self.all(resource) if body["metadata"]["name"] == name]
        if not found:
            raise NotFoundError(f"{name} is not there", status=404)
        return found[0]

    async def list_objects(
        self, resource: Resource, namespace: str, *, params: dict[str, str]
    ) -> list[Object]:
        del namespace, params
        return self.all(PODS) if resource is PODS else []

    async def list_page(
        self, resource: Resource, namespace: str, *, params: dict[str, str], most_bytes: int
    ) -> Object:
        del resource, namespace, params, most_bytes
        return {"metadata": {}, "items": []}

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        if resource not in {JOBS, CLAIMS}:
            self._write("create", None, name, body, lambda: None)
            return body
        if name in {there["metadata"]["name"] for there in self._bodies(resource)}:
            raise AlreadyExistsError(f"{name} is there", status=409)
        if self._world.refuses:
            raise RefusedError("exceeded quota", status=403)
        is_held = bool(body["spec"].get("suspend"))
        self._specs[name] = body["spec"]
        make = self._world.make_claim if resource is CLAIMS else self._world.make_job
        self._write("create", resource, name, body, lambda: make(name, suspended=is_held))
        return await self.get(resource, namespace, name)

    async def patch(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        job = self._job(name, body["metadata"]["uid"])
        annotations = body["metadata"].get("annotations", {})
        resumed = annotations.get(RESUMED_ANNOTATION, job.resumed_at_generation)

        def change() -> None:
            self._world.set_suspended(name, suspended=body["spec"]["suspend"])
            self._world.jobs[name] = replace(
                self._world.jobs[name],
                parallelism=body["spec"].get("parallelism", job.parallelism),
                resumed_at_generation=None if resumed is None else int(resumed),
            )

        self._write("patch", resource, name, body, change)
        return await self.get(resource, namespace, name)

    async def patch_status(
        self, resource: Resource, namespace: str, name: str, body: Object
    ) -> Object:
        there = await self.get(resource, namespace, name)
        if there["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ConflictError(f"{name} has changed", status=409)
        status = merged(there.get("status", {}), body["status"])

        def change() -> None:
            self._world.training = replace(self._world.training, status=status)

        self._write("status", resource, name, status, change)
        return await self.get(resource, namespace, name)

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, propagation: str
    ) -> None:
        del propagation
        there = await self.get(resource, namespace, name)
        if there["metadata"]["uid"] != uid:
            raise ConflictError(f"{name} is another one", status=409)
        deletions: dict[Resource, Callable[[], None]] = {
            JOBS: lambda: self._world.delete_job(name),
            CLAIMS: self._world.delete_claim,
            PODS: lambda: self._world.delete_pod(name),
            TRAININGS: self._world.delete_run,
        }
        self._write("delete", resource, name, {}, deletions[resource])

    async def evict(self, namespace: str, name: str, *, uid: str) -> None:
        await self.get(PODS, namespace, name)
        if self._world.has_budget:
            raise UnavailableError("protected", causes=frozenset({"DisruptionBudget"}))
        (pod,) = [pod for pod in self._world.pods if pod.view.uid == uid]
        self._write("evict", PODS, name, {}, lambda: self._world.evict_pod(pod))

    def _write(
        self,
        verb: str,
        resource: Resource | None,
        name: str,
        body: Object,
        change: Callable[[], None],
    ) -> None:
        self._before(verb, resource, name, body)
        change()
        self._after()

    def _job(self, name: str, uid: str) -> Job:
        job = self._world.jobs.get(name)
        if job is None:
            raise NotFoundError(f"{name} is not there", status=404)
        if job.uid != uid:
            raise ConflictError(f"{name} is another one", status=409)
        return job

    def _bodies(self, resource: Resource) -> list[Object]:
        world, run = self._world, self._world.training.run()
        if resource is TRAININGS:
            return [world.training.stored()] if world.is_there else []
        if resource is JOBS:
            return [job_body(job, run, self._specs[job.name]) for job in world.jobs.values()]
        if resource is PODS:
            return [pod_body(pod, world.jobs[pod.job].uid) for pod in world.pods]
        return [claim_body(world.claim, run)] if world.claim is not None else []

    def _versioned(self, resource: Resource, body: Object) -> Object:
        """The object with a version that is new whenever the object is."""
        body = copy.deepcopy(body)
        body["metadata"].pop("resourceVersion", None)
        key = resource, body["metadata"]["name"]
        version, known = self._known.get(key, (0, {}))
        if known != body:
            self._version += 1
            version = self._version
            self._known[key] = version, copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(version)
        return body


def claim_body(claim: Claim, run: Run) -> Object:
    """A PersistentVolumeClaim as the API server has it."""
    meta = _born(metadata(run, claim.name), claim.uid, claim.created_at, claim.deleting)
    return {"metadata": meta, "status": {"phase": claim.phase}}


def job_body(job: Job, run: Run, spec: Object) -> Object:
    """A Job as the API server has it."""
    meta = _born(metadata(run, job.name), job.uid, job.created_at, job.deleting)
    if job.queue is not None:
        meta["labels"] = {**meta["labels"], QUEUE_LABEL: job.queue}
    if job.resumed_at_generation is not None:
        meta["annotations"] = {RESUMED_ANNOTATION: str(job.resumed_at_generation)}
    conditions = []
    if job.failing_reason:
        conditions.append(_true("FailureTarget", job.created_at, job.failing_reason))
    if job.completed_at is not None:
        conditions.append(_true("Complete", job.completed_at))
    if job.failed_at is not None:
        said = {"message": job.failed_message}
        conditions.append(_true("Failed", job.failed_at, job.failed_reason) | said)
    return {
        "metadata": meta,
        "spec": spec | {"suspend": job.suspended, "parallelism": job.parallelism},
        "status": {
            "failed": job.failed_pods,
            "active": job.active_pods,
            "conditions": conditions,
        },
    }


def pod_body(pod: APodInTheWorld, job_uid: str) -> Object:
    """A pod as the API server has it."""
    view = pod.view
    owner = {
        **{"apiVersion": JOBS.api_version, "kind": "Job", "controller": True},
        **{"name": pod.job, "uid": job_uid},
    }
    meta: Object = {"name": view.name, "namespace": "studio", "labels": labels_of("anna", RUN_UID)}
    return {
        "metadata": _born(
            meta | {"ownerReferences": [owner]}, view.uid, view.created_at, view.deleting
        ),
        "spec": {"nodeName": view.node} if view.node is not None else {},
        "status": {
            "phase": view.phase,
            "conditions": _pod_conditions(view),
            "containerStatuses": [{"name": "trainer", "state": _state(view.container)}],
        },
    }


def _pod_conditions(view: Pod) -> list[Object]:
    conditions = []
    if view.scheduled_at is not None:
        conditions.append(_true("PodScheduled", view.scheduled_at))
    if view.disrupted is not None:
        conditions.append(_true("DisruptionTarget", view.created_at, view.disrupted))
    return conditions


def _state(container: Container) -> Object:
    begun = container.started_at.isoformat() if container.started_at is not None else None
    if container.exit_code is not None:
        assert container.ended_at is not None
        ended = {
            "exitCode": container.exit_code,
            "reason": container.end_reason,
            "message": container.end_message,
            "startedAt": begun,
            "finishedAt": container.ended_at.isoformat(),
        }
        return {"terminated": ended}
    return {"running": {"startedAt": begun}} if container.running else {"waiting": {}}


def _true(kind: str, at: datetime, reason: str = "") -> Object:
    return {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": at.isoformat()}


def _born(meta: Object, uid: str, at: datetime, deleting: bool) -> Object:
    born = {**meta, "uid": uid, "creationTimestamp": at.isoformat()}
    return born | ({"deletionTimestamp": at.isoformat()} if deleting else {})
