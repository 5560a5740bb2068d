"""A stage with the real controllers on it: the test plays nobody but kubelet, scheduler and user.

A module of its own because what a Job counts as a failure, and what waits for what in a deletion,
is the controllers' to say; on the plain stage the test says it.
"""

from __future__ import annotations

import functools
import uuid

from tests.api.operator_process import ApiServer, Object, eventually
from tests.api.stage import Stage
from tests.builders import APod, ATraining, a_pod, a_training

from lora_operator.kube.resources import JOBS, PODS, TRAININGS, Resource

MERGE = "application/merge-patch+json"


class RealStage(Stage):
    """A stage on which the Job controller acts by itself."""

    def beside(self, name: str) -> RealStage:
        """A run that waits for a node, in the same namespace."""
        training = a_training().with_spec("workspace.type", "Ephemeral")
        other = RealStage(self.api, training.in_namespace(self.namespace).named(name))
        other.apply()
        other.is_in("Pending", "PodPending")
        return other

    def patch(self, spec: Object, **meta: object) -> None:
        """Change the run as its user would."""
        path = TRAININGS.path(self.namespace, self.name)
        self.api.request("PATCH", path, {"spec": spec, "metadata": meta}, MERGE)

    def patch_job(self, spec: Object, *, job: str = "anna-train") -> None:
        """Change a Job behind the operator's back, or as Kueue does."""
        path = JOBS.path(self.namespace, job)
        self.api.request("PATCH", path, {"spec": spec}, MERGE)

    def running_pod(self, *, job: str = "anna-train", but: str = "") -> APod:
        """The Job's newest pod, on a node and running."""

        def newest() -> str | None:
            for pod in self.api.list(PODS, self.namespace):
                owner, name = pod["metadata"]["ownerReferences"][0]["name"], pod["metadata"]["name"]
                if owner == job and name != but and pod["status"]["phase"] == "Pending":
                    found: str = name
                    return found
            return None

        pod = a_pod().named(eventually(newest, f"{job} has a pod"))
        self.bind_pod(pod)
        self.set_pod(pod.running())
        return pod

    def present_pod(self) -> APod:
        """The pod that the status names."""
        return a_pod().named(self.status["podName"])

    def pod(self, pod: APod) -> Object:
        """The pod as it is."""
        body = self.api.get(PODS, self.namespace, pod.name)
        assert body is not None
        return body

    def is_leaving(self, pod: APod) -> None:
        """Wait until the pod's deletion has begun."""
        eventually(lambda: "deletionTimestamp" in self.pod(pod)["metadata"], f"{pod.name} is to go")

    def end(self, pod: APod, code: int, message: str = "") -> None:
        """End a pod as its kubelet would: its conditions stay, then it goes."""
        conditions = self.pod(pod)["status"]["conditions"]
        self.set_pod(pod.ended(code, message), conditions=conditions)
        if "deletionTimestamp" in self.pod(pod)["metadata"]:
            self.api.delete(PODS, self.namespace, pod.name)

    def has(self, resource: Resource) -> list[str]:
        """Names of what there is of a kind and not on its way out."""
        return [
            body["metadata"]["name"]
            for body in self.api.list(resource, self.namespace)
            if "deletionTimestamp" not in body["metadata"]
        ]

    def is_empty_of(self, *resources: Resource) -> None:
        for resource in resources:
            eventually(functools.partial(self._lacks, resource), f"no {resource.plural} left")

    def _lacks(self, resource: Resource) -> bool:
        return not self.api.list(resource, self.namespace)


class NewStage:
    """Makes stages, each in a namespace of its own."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    def __call__(
        self, training: ATraining | None = None, *, labels: Object | None = None
    ) -> RealStage:
        training = (training or a_training()).in_namespace(make_namespace(self._api))
        stage = RealStage(self._api, training.labelled(labels or {}))
        stage.apply()
        return stage


def make_namespace(api: ApiServer, labels: Object | None = None) -> str:
    """A namespace in which the controllers have made what a pod needs."""
    name = f"ns-{uuid.uuid4().hex[:8]}"
    meta = {"name": name, "labels": labels or {}}
    api.request("POST", "/api/v1/namespaces", {"metadata": meta})
    accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
    eventually(lambda: api.request("GET", accounts)["items"], f"{name} is usable")
    return name
