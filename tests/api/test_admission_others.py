"""Where a policy counts runs by user, nobody but that user changes or deletes his run."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from tests.api.guarded import OPERATOR, Guarded, Person, refusal, until_refused
from tests.api.operator_process import eventually
from tests.builders import a_training

from lora_api import GROUP
from lora_api.training import PLURAL

pytestmark = pytest.mark.api

NAMESPACE, FREE = "of-many", "of-many-without-policy"
GATEWAY = {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["*"]}
CHANGES: dict[str, dict[str, Any]] = {
    "cancelled": {"cancel": {}},
    "suspended": {"suspend": True},
    "put back": {"priorityClassName": "low"},
    "kept for no time": {"retention": {"ttlSeconds": 0}},
}


@pytest.fixture(scope="module")
def admin(guarded: Guarded) -> Person:
    guarded.make_namespace(NAMESPACE, policy={"priorityClasses": [{"name": "low", "value": 0}]})
    guarded.make_namespace(FREE)
    guarded.make_role("runs-of-anybody", GATEWAY)
    for namespace in (NAMESPACE, FREE):
        for user in ("anna", "ben"):
            guarded.bind(user, "lora-operator-editor", namespace)
    guarded.bind("boss", "lora-operator-admin", NAMESPACE)
    guarded.bind("gateway", "runs-of-anybody", NAMESPACE)
    person = guarded.acting_as(None)
    for user in ("anna", "ben", "boss", "gateway"):
        may_delete = partial(guarded.acting_as(user).can, "delete", PLURAL, NAMESPACE)
        eventually(may_delete, "roles are bound")
    make(person, "bens")
    anna = guarded.acting_as("anna")
    until_refused(lambda: change(anna, "bens", {"suspend": True}), "is ben's")
    return person


def make(person: Person, name: str, namespace: str = NAMESPACE) -> None:
    run = a_training().in_namespace(namespace).named(name).with_spec("user", "ben")
    person.create(PLURAL, run.manifest(), dry_run=False)


def change(
    person: Person, name: str, spec: dict[str, Any], namespace: str = NAMESPACE
) -> dict[str, Any]:
    return person.patch(PLURAL, namespace, name, {"spec": spec})


@pytest.mark.parametrize("what", CHANGES)
def test_anothers_run_is_not(what: str, guarded: Guarded, admin: Person) -> None:
    anna = guarded.acting_as("anna")
    status, message = refusal(lambda: change(anna, "bens", CHANGES[what]))
    assert (status, "run bens is ben's, not anna's" in message) == (403, True), message


def test_anothers_run_is_not_deleted_and_may_be_labelled(guarded: Guarded, admin: Person) -> None:
    anna = guarded.acting_as("anna")
    status, message = refusal(lambda: anna.delete(PLURAL, NAMESPACE, "bens"))
    assert (status, "run bens is ben's, not anna's" in message) == (403, True), message
    assert anna.patch(PLURAL, NAMESPACE, "bens", {"metadata": {"labels": {"seen-by": "anna"}}})


@pytest.mark.parametrize("who", ["ben", "boss", "gateway", OPERATOR, None])
def test_its_user_and_whoever_answers_for_all_may(
    who: str | None, guarded: Guarded, admin: Person
) -> None:
    name = f"of-{(who or 'root').rpartition(':')[2]}"
    make(admin, name)
    person = guarded.acting_as(who)
    if who != OPERATOR:
        assert change(person, name, {"suspend": True})
    person.delete(PLURAL, NAMESPACE, name)


def test_where_no_policy_counts_by_user_roles_alone_decide(guarded: Guarded, admin: Person) -> None:
    make(admin, "bens", FREE)
    anna = guarded.acting_as("anna")
    assert change(anna, "bens", {"suspend": True}, FREE)
    anna.delete(PLURAL, FREE, "bens")


def test_runs_go_with_their_namespace(guarded: Guarded, admin: Person) -> None:
    namespace = guarded.make_namespace("of-many-passing", policy={})
    make(admin, "bens", namespace)
    guarded.delete_namespace(namespace)
    eventually(lambda: not guarded.has_namespace(namespace), "the namespace is gone")
