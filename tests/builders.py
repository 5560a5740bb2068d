"""Objects for tests, built in sentences: `a_training().with_gpus(2)`, `a_pod().running()`.

They make the JSON of the API server, so that the same builders feed the rules (through the
operator's own reading, in sights.py) and play kubelet and Job controller against a real API server.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from lora_api import API_VERSION
from lora_api.status import LoRATrainingStatus
from lora_api.training import KIND
from lora_operator.builders.job import build_job
from lora_operator.labels import labels_of, workspace_name
from lora_operator.state.reading import read_run
from lora_operator.state.views import Run

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32
RUN_UID = "11111111-aaaa-4aaa-8aaa-111111111111"
JOB_UID = "22222222-bbbb-4bbb-8bbb-222222222222"
Object = dict[str, Any]


def stamp(when: datetime) -> str:
    """A timestamp as Kubernetes writes it."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class ATraining:
    """A LoRATraining in the making."""

    name: str = "anna"
    namespace: str = "studio"
    spec: Object = field(
        default_factory=lambda: {
            "recipe": "sd15",
            "baseModel": {"uri": "s3://bases/small/"},
            "dataset": {"uri": "s3://datasets/anna/", "triggerWord": "ohwx anna"},
            "optimization": {"steps": 100},
            "output": {"uri": "s3://models/anna/"},
            "credentialsSecretName": "s3",
        }
    )
    status: Object = field(default_factory=dict)
    meta: Object = field(default_factory=dict)

    def _with(self, path: str, value: Any) -> Self:  # noqa: ANN401
        spec = copy.deepcopy(self.spec)
        *parents, leaf = path.split(".")
        node = spec
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
        return replace(self, spec=spec)

    def named(self, name: str) -> Self:
        return replace(self, name=name)

    def in_namespace(self, namespace: str) -> Self:
        return replace(self, namespace=namespace)

    def with_gpus(self, count: int) -> Self:
        return self._with("resources.gpus", count)

    def with_memory(self, quantity: str) -> Self:
        return self._with("resources.memory", quantity)

    def with_image(self, image: str) -> Self:
        return self._with("image", image)

    def with_recipe(self, recipe: str) -> Self:
        return self._with("recipe", recipe)

    def with_retries(self, count: int) -> Self:
        return self._with("limits.retries", count)

    def with_storage_class(self, name: str) -> Self:
        return self._with("workspace.storageClassName", name)

    def with_spec(self, path: str, value: Any) -> Self:  # noqa: ANN401
        return self._with(path, value)

    def without_secret(self) -> Self:
        return replace(
            self, spec={k: v for k, v in self.spec.items() if k != "credentialsSecretName"}
        )

    def suspended(self) -> Self:
        return self._with("suspend", True)

    def cancelled(self, *, keep_partial: bool = False) -> Self:
        return self._with("cancel", {"keepPartial": keep_partial})

    def queued_in(self, queue: str) -> Self:
        return replace(self, meta={**self.meta, "labels": {"kueue.x-k8s.io/queue-name": queue}})

    def labelled(self, labels: dict[str, str]) -> Self:
        return replace(self, meta={**self.meta, "labels": labels})

    def being_deleted(self) -> Self:
        return replace(self, meta={**self.meta, "deletionTimestamp": stamp(NOW)})

    def with_status(self, status: LoRATrainingStatus | None) -> Self:
        if status is None:
            return self
        dumped = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        return replace(self, status=dumped)

    def manifest(self) -> Object:
        """What a person applies."""
        labels = {"labels": dict(self.meta["labels"])} if "labels" in self.meta else {}
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name, "namespace": self.namespace, **labels},
            "spec": copy.deepcopy(self.spec),
        }

    def stored(self) -> Object:
        """What the API server holds."""
        body = self.manifest()
        body["metadata"] |= {
            "uid": RUN_UID,
            "resourceVersion": "100",
            "generation": 1,
            "creationTimestamp": stamp(NOW - timedelta(seconds=1)),
            **copy.deepcopy(self.meta),
        }
        body["status"] = copy.deepcopy(self.status)
        return body

    def run(self) -> Run:
        """What the rules see of it."""
        return read_run(self.stored())


def a_training() -> ATraining:
    """A plain valid run."""
    return ATraining()


@dataclass(frozen=True)
class APod:
    """A trainer pod in the making."""

    name: str = "anna-train-x1"
    age: timedelta = timedelta(seconds=30)
    node: str | None = None
    status: Object = field(default_factory=lambda: {"phase": "Pending"})
    meta: Object = field(default_factory=dict)

    def named(self, name: str) -> Self:
        return replace(self, name=name)

    def aged(self, seconds: float) -> Self:
        return replace(self, age=timedelta(seconds=seconds))

    def unschedulable(self, message: str) -> Self:
        return self._condition("PodScheduled", "False", "Unschedulable", message)

    def placed(self, node: str = "node-1") -> Self:
        since = stamp(NOW - self.age)
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": since}
        others = [c for c in self.status.get("conditions", []) if c["type"] != "PodScheduled"]
        return replace(self, node=node, status={**self.status, "conditions": [*others, placed]})

    def waiting(self, reason: str, message: str = "") -> Self:
        state = {"waiting": {"reason": reason, "message": message}}
        return self.placed()._container(state, phase="Pending")

    def running(self) -> Self:
        state = {"running": {"startedAt": stamp(NOW - timedelta(seconds=20))}}
        return replace(self.placed()._container(state, phase="Running"))

    def ended(self, code: int, message: str = "", reason: str = "") -> Self:
        state = {
            "terminated": {
                "exitCode": code,
                "reason": reason or ("Completed" if code == 0 else "Error"),
                "message": message,
                "startedAt": stamp(NOW - timedelta(seconds=20)),
                "finishedAt": stamp(NOW),
            }
        }
        return self.placed()._container(state, phase="Succeeded" if code == 0 else "Failed")

    def disrupted(self, reason: str, message: str) -> Self:
        return self._condition("DisruptionTarget", "True", reason, message)

    def being_deleted(self) -> Self:
        return replace(self, meta={"deletionTimestamp": stamp(NOW)})

    def evicted(self, message: str) -> Self:
        status = {**self.status, "phase": "Failed", "reason": "Evicted", "message": message}
        return replace(self, status=status)

    def _container(self, state: Object, *, phase: str) -> Self:
        container = {
            "name": "trainer",
            "state": state,
            "ready": "running" in state,
            "restartCount": 0,
            "image": "lora-trainer:test",
            "imageID": "",
        }
        return replace(
            self, status={**self.status, "phase": phase, "containerStatuses": [container]}
        )

    def _condition(self, kind: str, status: str, reason: str, message: str) -> Self:
        condition = {"type": kind, "status": status, "reason": reason, "message": message}
        conditions = [*self.status.get("conditions", []), condition]
        return replace(self, status={**self.status, "conditions": conditions})

    def stored(self) -> Object:
        """What the API server holds."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": "studio",
                "uid": f"uid-of-{self.name}",
                "resourceVersion": "300",
                "creationTimestamp": stamp(NOW - self.age),
                "labels": labels_of("anna", RUN_UID),
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": "anna-train",
                        "uid": JOB_UID,
                        "controller": True,
                    }
                ],
                **self.meta,
            },
            "spec": {"nodeName": self.node} if self.node else {},
            "status": copy.deepcopy(self.status),
        }


def a_pod() -> APod:
    """A pod that waits for a node."""
    return APod()


@dataclass(frozen=True)
class AJob:
    """A Job in the making."""

    status: Object = field(default_factory=lambda: {"active": 1})
    spec: Object = field(default_factory=dict)
    meta: Object = field(default_factory=dict)
    labels: Object = field(default_factory=dict)

    def complete(self) -> Self:
        return self._ended("Complete", "", "") if self.status else self

    def failed(
        self, reason: str = "BackoffLimitExceeded", message: str = "", at: datetime = NOW
    ) -> Self:
        return self._ended("Failed", reason, message, at)

    def failing(self, reason: str) -> Self:
        return self._condition("FailureTarget", reason, "")

    def suspended(self) -> Self:
        return replace(self, spec={**self.spec, "suspend": True}, status={})

    def let_go_at(self, generation: int) -> Self:
        """The operator resumed it when the run had this generation."""
        annotations = {"loratraining.dev/resumed-at-generation": str(generation)}
        return replace(self, meta={**self.meta, "annotations": annotations})

    def queued_in(self, queue: str) -> Self:
        return replace(self, labels={"kueue.x-k8s.io/queue-name": queue})

    def of_parallelism(self, count: int) -> Self:
        return replace(self, spec={**self.spec, "parallelism": count})

    def being_deleted(self) -> Self:
        return replace(self, meta={**self.meta, "deletionTimestamp": stamp(NOW)})

    def with_failed_pods(self, count: int) -> Self:
        return replace(self, status={**self.status, "failed": count})

    def _ended(self, kind: str, reason: str, message: str, at: datetime = NOW) -> Self:
        ended = self._condition(kind, reason, message, at)
        return replace(ended, status={**ended.status, "active": 0})

    def _condition(self, kind: str, reason: str, message: str, at: datetime = NOW) -> Self:
        condition = {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": stamp(at),
        }
        return replace(self, status={**self.status, "conditions": [condition]})

    def stored(self) -> Object:
        """What the API server holds."""
        run = a_training().run()
        assert run.spec is not None
        body = build_job(run, run.spec, default_image="lora-trainer:test")
        body["metadata"] |= {
            "uid": JOB_UID,
            "resourceVersion": "200",
            "creationTimestamp": stamp(NOW - timedelta(seconds=60)),
            **self.meta,
        }
        body["metadata"]["labels"] |= self.labels
        body["spec"] |= self.spec
        body["status"] = copy.deepcopy(self.status)
        return body


def a_job() -> AJob:
    """A Job with one active pod."""
    return AJob()


def a_claim(phase: str = "Bound") -> Object:
    """A workspace claim as stored."""
    return {
        "metadata": {
            "name": workspace_name("anna"),
            "namespace": "studio",
            "uid": "uid-of-claim",
            "creationTimestamp": stamp(NOW - timedelta(seconds=60)),
        },
        "status": {"phase": phase},
    }
