"""One run and somebody who plays Job controller and kubelet for it, by writing statuses.

A module of its own because it knows how Jobs and pods come to look the way they do, and nothing of
the process that is tested.
"""

from __future__ import annotations

import time
from typing import Any

from tests.api.operator_process import ApiServer, Object, eventually
from tests.builders import AJob, APod, ATraining, a_job, a_pod
from tests.results import a_good_result

from lora_operator.kube.resources import CLAIMS, EVENTS, JOBS, PODS, TRAININGS
from lora_operator.labels import job_name, workspace_name


class Stage:
    """One run on stage: the test moves its Job and pods, and looks at its status."""

    def __init__(self, api: ApiServer, training: ATraining) -> None:
        self.api = api
        self.training = training
        self.namespace = training.namespace
        self.name = training.name

    def apply(self) -> Object:
        return self.api.create(TRAININGS, self.training.manifest())

    @property
    def status(self) -> Object:
        body = self.api.get(TRAININGS, self.namespace, self.name)
        assert body is not None
        status: Object = body.get("status", {})
        return status

    @property
    def version(self) -> str:
        body = self.api.get(TRAININGS, self.namespace, self.name)
        assert body is not None
        version: str = body["metadata"]["resourceVersion"]
        return version

    def condition(self, kind: str) -> Object:
        found = [c for c in self.status.get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def job(self) -> Object:
        """The run's Job, once it exists."""
        found: Object = eventually(
            lambda: self.api.get(JOBS, self.namespace, job_name(self.name)),
            f"the Job of {self.name} exists",
        )
        return found

    def jobs(self) -> list[Object]:
        return [
            job
            for job in self.api.list(JOBS, self.namespace)
            if self.name in job["metadata"]["name"]
        ]

    def bind_claim(self) -> None:
        name = workspace_name(self.name)
        eventually(lambda: self.api.get(CLAIMS, self.namespace, name), "the claim exists")
        status = {"phase": "Bound", "capacity": {"storage": "20Gi"}}
        self.api.patch_status(CLAIMS, self.namespace, name, status)

    def add_pod(self, pod: APod) -> None:
        """Create a pod of the Job as the Job controller would."""
        job = self.job()
        template = job["spec"]["template"]
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
            "controller": True,
        }
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod.name,
                "namespace": self.namespace,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": {**template["spec"], **({"nodeName": pod.node} if pod.node else {})},
        }
        self.api.create(PODS, body)
        self.api.patch_status(JOBS, self.namespace, job["metadata"]["name"], {"active": 1})
        self.set_pod(pod)

    def set_pod(self, pod: APod, **more: Any) -> None:  # noqa: ANN401
        """Write a pod's status as the kubelet would."""
        status = {**pod.stored()["status"], **more}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for condition in status.get("conditions", []):
            # The builders' fixed moment would have a pod wait for hours already.
            if "lastTransitionTime" in condition:
                condition["lastTransitionTime"] = now
        for container in status.get("containerStatuses", []):
            for state in container["state"].values():
                # The builders' fixed moment would set the Job controller's back-off in the future.
                state |= {name: now for name in ("startedAt", "finishedAt") if name in state}
        self.api.patch_status(PODS, self.namespace, pod.name, status)

    def bind_pod(self, pod: APod, node: str = "node-1") -> None:
        """Place the pod as the scheduler would."""
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": self.namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self.api.request("POST", PODS.path(self.namespace, pod.name, "binding"), body)

    def warn_about(self, pod: APod, reason: str, message: str) -> None:
        """Tell an event about the pod as the kubelet would."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        stored = self.api.get(PODS, self.namespace, pod.name) or {}
        about = {"kind": "Pod", "name": pod.name, "uid": stored["metadata"]["uid"]}
        body = {
            "metadata": {"generateName": pod.name, "namespace": self.namespace},
            "involvedObject": {**about, "namespace": self.namespace},
            **{"type": "Warning", "reason": reason, "message": message, "count": 1},
            **{"firstTimestamp": now, "lastTimestamp": now},
        }
        self.api.create(EVENTS, body)

    def set_job(self, job: AJob) -> None:
        """Write the Job's status as the Job controller would."""
        status = dict(job.status)
        kinds = {c["type"] for c in status.get("conditions", [])}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        # The API server insists on the order in which a Job ends: criterion met, then ended.
        early = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}
        status["conditions"] = [
            *({**c, "type": early[c["type"]]} for c in status.get("conditions", [])),
            *({**c, "lastTransitionTime": now} for c in status.get("conditions", [])),
        ]
        status |= {"startTime": now, "ready": 0, "uncountedTerminatedPods": {}}
        if "Complete" in kinds:
            status |= {"completionTime": now, "succeeded": 1}
        self.api.patch_status(JOBS, self.namespace, job_name(self.name), status)

    def live(self) -> Object:
        """A whole life of an applied run, to Completed, in which the first attempt crashes."""
        self.is_in("Pending", "PodPending")
        self.bind_claim()
        eventually(
            lambda: self.condition("WorkspaceReady")["status"] == "True", "the claim is bound"
        )
        first = a_pod().placed()
        self.add_pod(first)
        self.is_in("Starting")
        self.set_pod(first.running())
        self.is_in("Starting", "Running")
        self.set_pod(first.ended(1, "RuntimeError: boom"))
        self.is_in("Pending", "Retrying")
        second = a_pod().named(f"{first.name}-2").placed()
        self.add_pod(second.running())
        eventually(lambda: self.status.get("attempts") == 2, "the second attempt is counted")
        self.set_pod(second.ended(0, a_good_result()))
        eventually(lambda: "artifact" in self.status, "the artifact is recorded")
        self.set_job(a_job().with_failed_pods(1).complete())
        return self.is_in("Completed")

    def is_in(self, phase: str, reason: str = "") -> Object:
        """Wait until the run is in a phase (and its summary gives a reason)."""

        def there() -> Object | None:
            status = self.status
            if status.get("phase") != phase:
                return None
            return status if reason in {"", self._reason(status)} else None

        status: Object = eventually(
            there, lambda: f"{self.name} is {phase} {reason}; it is {self.status}"
        )
        return status

    @staticmethod
    def _reason(status: Object) -> str:
        found = [c["reason"] for c in status["conditions"] if c["type"] == "Running"]
        return found[0] if found else ""

    def told(self) -> list[str]:
        """Reasons of the events about the run, oldest first."""
        events = [
            event
            for event in self.api.list(EVENTS, self.namespace)
            if event["involvedObject"]["name"] == self.name
        ]
        events.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
        return [event["reason"] for event in events]
