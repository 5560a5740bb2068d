"""Who may do what: the chart's roles, bound in a namespace, as `kubectl auth can-i` answers."""

import pytest
from tests.api.guarded import OPERATOR, Guarded
from tests.api.operator_process import eventually

pytestmark = pytest.mark.api

READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete")
RUNS, STATUS = "loratrainings", "loratrainings/status"
POLICIES, LEDGERS = "trainingpolicies", "trainingledgers"

# Role, resource, verbs that it gives; every other verb of READ and WRITE is refused.
GRANTS = [
    ("lora-operator-viewer", RUNS, READ),
    ("lora-operator-viewer", STATUS, READ),
    ("lora-operator-viewer", POLICIES, READ),
    ("lora-operator-viewer", LEDGERS, READ),
    ("lora-operator-editor", RUNS, WRITE),
    ("lora-operator-editor", STATUS, ()),
    ("lora-operator-editor", POLICIES, ()),
    ("lora-operator-editor", LEDGERS, ()),
    ("lora-operator-admin", RUNS, READ + WRITE),
    ("lora-operator-admin", STATUS, READ),
    ("lora-operator-admin", POLICIES, READ + WRITE),
    ("lora-operator-admin", LEDGERS, READ),
    # The roles that every cluster has, once the controllers have aggregated ours into them.
    ("view", RUNS, READ),
    ("view", POLICIES, READ),
    ("edit", RUNS, READ + WRITE),
    ("edit", STATUS, READ),
    ("edit", POLICIES, READ),
    ("edit", LEDGERS, READ),
    ("admin", RUNS, READ + WRITE),
    ("admin", STATUS, READ),
    ("admin", POLICIES, READ),
    ("admin", LEDGERS, READ),
]


@pytest.mark.parametrize(
    ("role", "resource", "verbs"), GRANTS, ids=[f"{row[0]} {row[1]}" for row in GRANTS]
)
def test_a_role_gives_these_verbs_and_no_other(
    guarded: Guarded, role: str, resource: str, verbs: tuple[str, ...]
) -> None:
    namespace = guarded.make_namespace("of-roles")
    user = f"holder-of-{role}"
    guarded.bind(user, role, namespace)
    person = guarded.acting_as(user)
    held = verbs[0] if verbs else "create"
    probed = resource if verbs else RUNS
    eventually(lambda: person.can(held, probed, namespace), f"{role} is in force")
    assert {verb for verb in READ + WRITE if person.can(verb, resource, namespace)} == set(verbs)


@pytest.mark.parametrize("role", sorted({row[0] for row in GRANTS}))
def test_no_role_lets_its_holder_act_for_others(guarded: Guarded, role: str) -> None:
    namespace = guarded.make_namespace("of-roles")
    guarded.bind(f"holder-of-{role}", role, namespace)
    assert not guarded.acting_as(f"holder-of-{role}").can("impersonate-user", RUNS, namespace)


def test_a_role_ends_at_its_namespace(guarded: Guarded) -> None:
    guarded.make_namespace("of-roles")
    guarded.make_namespace("of-others")
    guarded.bind("zoe", "lora-operator-admin", "of-roles")
    zoe = guarded.acting_as("zoe")
    eventually(lambda: zoe.can("update", POLICIES, "of-roles"), "the role is in force")
    assert not zoe.can("get", RUNS, "of-others")


def test_the_operator_writes_no_policy(guarded: Guarded) -> None:
    operator = guarded.acting_as(OPERATOR)
    assert operator.can("patch", STATUS, "of-roles")
    assert not operator.can("update", POLICIES, "of-roles")


# Role, question to kubectl, answer.
QUESTIONS = [
    ("lora-operator-viewer", "get trainingpolicies", "yes"),
    ("lora-operator-viewer", "patch trainingpolicies", "no"),
    ("lora-operator-viewer", "create loratrainings", "no"),
    ("lora-operator-editor", "create loratrainings", "yes"),
    ("lora-operator-editor", "update trainingpolicies", "no"),
    ("lora-operator-editor", "patch loratrainings --subresource=status", "no"),
    ("lora-operator-admin", "update trainingpolicies", "yes"),
    ("lora-operator-admin", "deletecollection trainingpolicies", "yes"),
    ("lora-operator-admin", "patch trainingpolicies --subresource=status", "no"),
    ("lora-operator-admin", "patch trainingledgers", "no"),
    ("lora-operator-admin", "operate loratrainings", "no"),
    ("lora-operator-admin", "get secrets", "no"),
    ("admin", "update trainingpolicies", "no"),
    ("admin", "impersonate-user loratrainings", "no"),
]


@pytest.mark.parametrize(
    ("role", "question", "answer"), QUESTIONS, ids=[f"{row[0]}: {row[1]}" for row in QUESTIONS]
)
def test_kubectl_answers_who_may_do_what(
    guarded: Guarded, role: str, question: str, answer: str
) -> None:
    namespace = guarded.make_namespace("of-questions")
    user = f"asker-{role}"
    guarded.bind(user, role, namespace)
    known = ("create" if role == "lora-operator-editor" else "get", RUNS)
    eventually(lambda: guarded.acting_as(user).can(*known, namespace), f"{role} is in force")
    assert guarded.can_i(user, namespace, *question.split()) == answer
