"""An API server with the chart's roles and admission rules, and people who ask it for things.

A module of its own because who asks matters as much as what is asked for, and the other API tests
all ask as administrator.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from lora_api import GROUP, VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_cluster.light import LightCluster

ROOT = Path(__file__).parents[2]
RELEASE = "lora-operator"
RELEASE_NAMESPACE = "lora-system"
OPERATOR = f"system:serviceaccount:{RELEASE_NAMESPACE}:{RELEASE}"
PATIENCE_SECONDS = 30.0
Object = dict[str, Any]


class Guarded:
    """The cluster, seen by whoever acts."""

    def __init__(self, cluster: LightCluster) -> None:
        self._cluster = cluster
        self.apply(*(document for document in self._chart() if _is_kept(document)))

    def apply(self, *documents: Object) -> None:
        """Apply as administrator."""
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        self._kubectl("apply", "-f-", stdin=body)

    def make_namespace(self, name: str, *, policy: Object | None = None) -> str:
        """A namespace, with a policy that already acts if one is given."""
        self.apply(_object("v1", "Namespace", name))
        if policy is not None:
            manifest = _object(f"{GROUP}/{VERSION}", POLICY_KIND, ACTING_POLICY, name)
            self.apply({**manifest, "spec": policy})
        return name

    def delete_namespace(self, name: str) -> None:
        """Begin to delete a namespace with all that is in it."""
        self._kubectl("delete", "namespace", name, "--wait=false")

    def has_namespace(self, name: str) -> bool:
        """Whether the namespace is still there."""
        return bool(self._kubectl("get", "namespace", name, "--ignore-not-found", "-oname"))

    def bind(self, user: str, role: str, namespace: str) -> None:
        """Give a person a ClusterRole in a namespace."""
        binding = _object(_RBAC, "RoleBinding", f"{user}-{role}".replace(":", "-"), namespace)
        subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
        reference = {
            "kind": "ClusterRole",
            "name": role,
            "apiGroup": "rbac.authorization.k8s.io",
        }
        self.apply({**binding, "roleRef": reference, "subjects": [subject]})

    def can_i(self, user: str, namespace: str, *question: str) -> str:
        """What `kubectl auth can-i` answers a person: yes or no."""
        asked = [
            *(str(self._cluster.binaries / "kubectl"), "auth", "can-i", *question),
            *(f"--kubeconfig={self._cluster.kubeconfig}", f"--as={user}", "-n", namespace),
        ]
        # It warns of verbs that it does not know, and ends with 1 where the answer is no.
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def make_role(self, name: str, *rules: Object) -> None:
        """A ClusterRole."""
        self.apply({**_object(_RBAC, "ClusterRole", name), "rules": list(rules)})

    def acting_as(self, user: str | None) -> Person:
        """Somebody who asks; None is the administrator."""
        api = config.new_client_from_config(str(self._cluster.kubeconfig))
        if user is not None:
            api.set_default_header("Impersonate-User", user)
        return Person(api)

    def _chart(self) -> list[Object]:
        rendered = self._run(
            *("helm", "template", RELEASE, str(ROOT / "charts/lora-operator")),
            *(f"--namespace={RELEASE_NAMESPACE}", "--kube-version=1.35.4"),
        )
        return [
            _object("v1", "Namespace", RELEASE_NAMESPACE),
            *(document for document in yaml.safe_load_all(rendered) if document),
        ]

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        config_file = f"--kubeconfig={self._cluster.kubeconfig}"
        return self._run("kubectl", config_file, *arguments, stdin=stdin)

    def _run(self, program: str, *arguments: str, stdin: str | None = None) -> str:
        path = str(self._cluster.binaries / program)
        done = subprocess.run(
            [path, *arguments], input=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Person:
    """What one user asks of the API server."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self._objects = client.CustomObjectsApi(api)
        self._authorization = client.AuthorizationV1Api(api)

    def create(
        self, plural: str, body: Object, *, dry_run: bool = True, strict: bool = False
    ) -> Object:
        """Create in the namespace that the body names."""
        options: Object = {"dry_run": "All"} if dry_run else {}
        if strict:
            options["field_validation"] = "Strict"
        where = (GROUP, VERSION, body["metadata"]["namespace"], plural)
        created: Object = self._objects.create_namespaced_custom_object(*where, body, **options)
        return created

    def patch(self, plural: str, namespace: str, name: str, body: Object) -> Object:
        """Merge into an object."""
        where = (GROUP, VERSION, namespace, plural, name)
        patched: Object = self._objects.patch_namespaced_custom_object(*where, body)
        return patched

    def patch_status(self, plural: str, namespace: str, name: str, body: Object) -> Object:
        """Merge into an object's status."""
        where = (GROUP, VERSION, namespace, plural, name)
        patched: Object = self._objects.patch_namespaced_custom_object_status(*where, body)
        return patched

    def delete(self, plural: str, namespace: str, name: str) -> None:
        """Delete an object."""
        self._objects.delete_namespaced_custom_object(GROUP, VERSION, namespace, plural, name)

    def send(self, verb: str, path: str, body: Object) -> Object:
        """Send any object to any path, and get what the API server makes of it."""
        kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
        request = self._api.param_serialize(
            verb, path, header_params={"Content-Type": kind}, body=body or None
        )
        response = self._api.call_api(*request)
        response.read()
        answer: Object = self._api.response_deserialize(response, {"2XX": "object"}).data
        return answer

    def can(self, verb: str, resource: str, namespace: str) -> bool:
        """Whether the user may, as `kubectl auth can-i` asks it."""
        plural, _, subresource = resource.partition("/")
        review = {
            "spec": {
                "resourceAttributes": {
                    "group": GROUP,
                    "resource": plural,
                    "subresource": subresource,
                    "verb": verb,
                    "namespace": namespace,
                }
            }
        }
        answer = self._authorization.create_self_subject_access_review(review)
        return bool(answer.status.allowed)


def refusal(action: Any) -> tuple[int, str]:  # noqa: ANN401 - any call without arguments
    """Status and sentence of the API server's refusal.

    Raises:
        AssertionError: It was not refused.
    """
    try:
        action()
    except ApiException as error:
        return error.status, json.loads(error.body)["message"]
    raise AssertionError("it was allowed")


def until_refused(action: Any, told: str) -> None:  # noqa: ANN401 - any call without arguments
    """Wait until the API server has read the rules; it does so within moments of their creation."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    said = "nothing"
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError):
            said = refusal(action)[1]
            if told in said:
                return
        time.sleep(0.1)
    raise AssertionError(f"not refused with {told!r}; last: {said}")


_RBAC = "rbac.authorization.k8s.io/v1"
_KEPT = frozenset({"Namespace", "ServiceAccount"})


def _is_kept(document: Object) -> bool:
    about_rights = document["apiVersion"].partition("/")[0] in {
        "rbac.authorization.k8s.io",
        "admissionregistration.k8s.io",
    }
    return about_rights or document["kind"] in _KEPT


def _object(api_version: str, kind: str, name: str, namespace: str | None = None) -> Object:
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
