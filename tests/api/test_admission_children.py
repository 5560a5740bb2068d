"""Nobody but the operator makes anything in a run's name, whatever he may do in the namespace.

The operator goes by the owner of a Job, a claim or a pod: a forged one would end another's run with
a result of the forger's own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from tests.api.guarded import Guarded, Person, refusal, until_refused
from tests.api.operator_process import eventually
from tests.builders import a_training

from lora_api import API_VERSION
from lora_api.training import KIND, PLURAL
from lora_operator.labels import MANAGED_BY_LABEL, MANAGER, RUN_UID_LABEL, labels_of

pytestmark = pytest.mark.api

Object = dict[str, Any]
NAMESPACE = "forgery"
EVERYTHING = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
PATHS = {
    "Job": f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs",
    "PersistentVolumeClaim": f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims",
    "Pod": f"/api/v1/namespaces/{NAMESPACE}/pods",
}
POD: Object = {
    "restartPolicy": "Never",
    "containers": [{"name": "trainer", "image": "busybox", "command": ["true"]}],
}
SPECS: dict[str, Object] = {
    "Job": {"template": {"spec": POD}},
    "PersistentVolumeClaim": {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    },
    "Pod": POD,
}


@pytest.fixture(scope="module")
def admin(guarded: Guarded) -> Person:
    guarded.make_namespace(NAMESPACE)
    guarded.make_role("all-there-is", EVERYTHING)
    guarded.bind("forger", "all-there-is", NAMESPACE)
    person = guarded.acting_as(None)
    forger = guarded.acting_as("forger")
    eventually(lambda: forger.can("create", PLURAL, NAMESPACE), "the role is bound")
    person.create(
        PLURAL, a_training().in_namespace(NAMESPACE).named("bens").manifest(), dry_run=False
    )
    until_refused(
        lambda: make(forger, "Job", owned=run_of(person), dry_run=True), "are made by the operator"
    )
    return person


@pytest.fixture
def forger(guarded: Guarded, admin: Person) -> Person:
    """Somebody who may do anything in the namespace, as far as roles go."""
    return guarded.acting_as("forger")


def run_of(person: Person) -> Object:
    """An owner reference to ben's run, as the operator writes it."""
    path = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/{PLURAL}/bens"
    uid = person.send("GET", path, {})["metadata"]["uid"]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": "bens",
        "uid": uid,
        "controller": True,
    }


def make(
    person: Person,
    kind: str,
    *,
    owned: Object | None = None,
    labels: Object | None = None,
    dry_run: bool = False,
) -> Object:
    """Create something under a name of its own."""
    body = {
        "apiVersion": "batch/v1" if kind == "Job" else "v1",
        "kind": kind,
        "metadata": {
            "name": f"bens-train-{uuid.uuid4().hex[:6]}",
            "labels": labels or {},
            "ownerReferences": [owned] if owned else [],
        },
        "spec": SPECS[kind],
    }
    query = "?dryRun=All" if dry_run else ""
    return person.send("POST", PATHS[kind] + query, body)


def change(person: Person, body: Object, metadata: Object) -> Object:
    path = f"{PATHS[body['kind']]}/{body['metadata']['name']}"
    return person.send("PATCH", path, {"metadata": metadata})


def made(person: Person, kind: str, **said: Any) -> Object:  # noqa: ANN401
    return {**make(person, kind, **said), "kind": kind}


OURS = labels_of("bens", "some-uid")
Attack = Callable[[Person, Person], Object]
ATTACKS: dict[str, Attack] = {
    "a Job in a run's name": lambda forger, admin: make(forger, "Job", owned=run_of(admin)),
    "a claim in a run's name": lambda forger, admin: make(
        forger, "PersistentVolumeClaim", owned=run_of(admin)
    ),
    "a pod in a run's name": lambda forger, admin: make(forger, "Pod", owned=run_of(admin)),
    "a Job that says it is owned, and not controlled": lambda forger, admin: make(
        forger, "Job", owned={**run_of(admin), "controller": False}
    ),
    "a pod with our labels": lambda forger, _: make(forger, "Pod", labels=OURS),
    "a pod with the run's label alone": lambda forger, _: make(
        forger, "Pod", labels={RUN_UID_LABEL: "some-uid"}
    ),
    "a pod with our manager's label alone": lambda forger, _: make(
        forger, "Pod", labels={MANAGED_BY_LABEL: MANAGER}
    ),
    "a Job that is given to a run afterwards": lambda forger, admin: change(
        forger, made(forger, "Job"), {"ownerReferences": [run_of(admin)]}
    ),
    "a claim that is given to a run afterwards": lambda forger, admin: change(
        forger, made(forger, "PersistentVolumeClaim"), {"ownerReferences": [run_of(admin)]}
    ),
    "a pod that gets our labels afterwards": lambda forger, _: change(
        forger, made(forger, "Pod"), {"labels": OURS}
    ),
    "a pod of a run that is turned into another's": lambda forger, admin: change(
        forger, made(admin, "Pod", labels=OURS), {"labels": {RUN_UID_LABEL: "another"}}
    ),
    "a Job of a run that is turned into another's": lambda forger, admin: change(
        forger,
        made(admin, "Job", owned=run_of(admin)),
        {"ownerReferences": [{**run_of(admin), "uid": "another"}]},
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused_to_make(attack: str, forger: Person, admin: Person) -> None:
    status, message = refusal(lambda: ATTACKS[attack](forger, admin))
    assert (status, "are made by the operator alone, not by forger" in message) == (403, True)


def test_what_has_nothing_to_do_with_runs_is_nobodys_business(forger: Person) -> None:
    for kind in PATHS:
        assert make(forger, kind)


def test_what_says_nothing_of_owners_is_free_to_change(forger: Person, admin: Person) -> None:
    for kind in ("Job", "PersistentVolumeClaim"):
        body = made(admin, kind, owned=run_of(admin))
        assert change(forger, body, {"annotations": {"note": "mine"}, "labels": {"team": "a"}})
    pod = made(admin, "Pod", labels=OURS)
    assert change(forger, pod, {"annotations": {"note": "mine"}, "labels": {"team": "a"}})


def test_the_job_controller_makes_a_runs_pods(admin: Person) -> None:
    name = f"bens-train-{uuid.uuid4().hex[:6]}"
    template = {"metadata": {"labels": OURS}, "spec": POD}
    meta = {"name": name, "labels": OURS, "ownerReferences": [run_of(admin)]}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta}
    admin.send("POST", PATHS["Job"], {**body, "spec": {"template": template}})
    query = f"{PATHS['Pod']}?labelSelector=job-name%3D{name}"
    eventually(lambda: admin.send("GET", query, {})["items"], "the Job has its pod")
