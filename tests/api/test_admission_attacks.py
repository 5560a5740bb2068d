"""What a tenant may try: each attack is refused by the API server, the operator not running."""

from typing import Any

import pytest
from tests.api.guarded import Guarded, Person, refusal, until_refused
from tests.api.operator_process import eventually
from tests.builders import ATraining, a_training

from lora_api import API_VERSION
from lora_api.training import PLURAL

pytestmark = pytest.mark.api

NAMESPACE = "tenant"
LEDGERS, POLICIES = "trainingledgers", "trainingpolicies"
POLICY: dict[str, Any] = {
    "monthlyTrainingsPerUser": 5,
    "caps": {"gpus": 4},
    "allowedOutputPrefixes": ["s3://models/{user}/"],
    "allowedImages": [],
}
LEDGER: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "TrainingLedger",
    "metadata": {"name": "m2026-11", "namespace": NAMESPACE},
    "spec": {"month": "2026-11", "users": [{"user": "mallory", "trainings": 5}]},
}
# The worst that a careless administrator gives a tenant for its own namespace.
EVERYTHING = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}


def a_run(path: str = "", value: Any = None) -> ATraining:  # noqa: ANN401
    run = a_training().in_namespace(NAMESPACE).with_spec("user", "mallory")
    run = run.with_spec("output.uri", "s3://models/mallory/")
    return run.with_spec(path, value) if path else run


@pytest.fixture(scope="module")
def admin(guarded: Guarded) -> Person:
    """Whoever made the namespace, with a policy, a run and a ledger in it."""
    guarded.make_namespace(NAMESPACE, policy=POLICY)
    guarded.make_role("everything", EVERYTHING)
    guarded.bind("mallory", "lora-operator-editor", NAMESPACE)
    guarded.bind("wildcard", "everything", NAMESPACE)
    person = guarded.acting_as(None)
    person.create(LEDGERS, LEDGER, dry_run=False)
    person.create(PLURAL, a_run().named("first").manifest(), dry_run=False)
    until_refused(
        lambda: person.create(PLURAL, a_run("resources.gpus", 5).manifest()),
        "spec.resources.gpus: 5 is more than the 4",
    )
    return person


@pytest.fixture
def mallory(guarded: Guarded, admin: Person) -> Person:
    """A tenant with the editor's role."""
    return guarded.acting_as("mallory")


@pytest.fixture
def wildcard(guarded: Guarded, admin: Person) -> Person:
    """A tenant who may do anything in the namespace, as far as roles go."""
    return guarded.acting_as("wildcard")


def test_the_run_that_the_attacks_start_from_is_fine(mallory: Person) -> None:
    assert mallory.create(PLURAL, a_run().manifest(), strict=True)


PATHS = [
    ("a foreign folder", "output.uri", "s3://models/ben/", "spec.output.uri"),
    ("a foreign bucket", "output.uri", "s3://other/mallory/", "spec.output.uri"),
    ("a folder that begins alike", "output.uri", "s3://models/mallory-2/", "spec.output.uri"),
    ("a bucket that begins alike", "output.uri", "s3://models.evil/mallory/", "spec.output.uri"),
    ("a step up", "output.uri", "s3://models/mallory/../ben/", "must be s3://"),
    ("an escaped step up", "output.uri", "s3://models/mallory/%2e%2e/ben/", "must be s3://"),
    ("a doubled slash", "output.uri", "s3://models//mallory/", "must be s3://"),
    ("a backslash", "output.uri", "s3://models/mallory\\..\\ben", "must be s3://"),
    ("a look-alike letter", "output.uri", "s3://models/m\u0430llory/", "must be s3://"),
    ("a hidden character", "output.uri", "s3://models/mallory\u200b/", "must be s3://"),
    ("a line break", "output.uri", "s3://models/mallory/\nx", "must be s3://"),
    ("a NUL", "output.uri", "s3://models/mallory/\x00", "must be s3://"),
    ("a query", "output.uri", "s3://models/mallory/?versionId=1", "must be s3://"),
    ("credentials in the URI", "output.uri", "s3://key:secret@models/mallory/", "must be s3://"),
    ("a scheme in capitals", "output.uri", "S3://models/mallory/", "must be s3://"),
    ("a local file", "dataset.uri", "file:///etc/shadow", "must start with s3://"),
    ("the metadata service", "dataset.uri", "http://169.254.169.254/latest/", "must be s3://"),
    ("a service of the cluster", "baseModel.uri", "http://10.96.0.1:443/", "must be s3://"),
    ("the API server by name", "baseModel.uri", "https://kubernetes.default.svc/", "must be s3"),
    ("a user with a path", "user", "mallory/../ben", "spec.user: mallory/../ben is not"),
    ("a user with a look-alike letter", "user", "m\u0430llory", "must be letters, digits"),
    ("an endless user", "user", "m" * 254, "spec.user"),
    ("another's name", "user", "ben", "spec.user: ben is not who makes this request (mallory)"),
    ("an empty name", "user", "", "spec.user"),
    ("another image", "image", "evil.example/trainer:v1", "spec.image: evil.example/trainer:v1"),
    ("minus one GPU", "resources.gpus", -1, "spec.resources.gpus"),
    ("all GPUs", "resources.gpus", 2**31, "spec.resources.gpus"),
    ("more than an integer holds", "optimization.steps", 2**63, "steps"),
    ("minus one step", "optimization.steps", -1, "spec.optimization.steps"),
    ("a negative deadline", "limits.activeDeadlineSeconds", -60, "activeDeadlineSeconds"),
    ("a negative size", "workspace.size", "-1Gi", "spec.workspace.size"),
    ("a size with an exponent", "workspace.size", "1e99", "spec.workspace.size"),
    ("an infinite learning rate", "optimization.learningRate", 1e308, "learningRate"),
]


@pytest.mark.parametrize(
    ("sentence", "path", "value", "told"), PATHS, ids=[row[0] for row in PATHS]
)
def test_a_value_is_refused(
    mallory: Person,
    sentence: str,
    path: str,
    value: Any,  # noqa: ANN401
    told: str,
) -> None:
    status, message = refusal(lambda: mallory.create(PLURAL, a_run(path, value).manifest()))
    assert status in {400, 403, 422}, sentence
    assert told in message


FIELDS = [
    ("a hostPath", "volumes", [{"name": "root", "hostPath": {"path": "/"}}]),
    ("a hostPath as workspace", "workspace.hostPath", "/"),
    ("a privileged pod", "securityContext", {"privileged": True}),
    ("a privileged pod through resources", "resources.privileged", True),
    ("the host's network", "hostNetwork", True),
    ("the host's processes", "hostPID", True),
    ("a node of one's choice", "nodeSelector", {"pool": "reserved"}),
    ("a node by name", "nodeName", "gpu-1"),
    ("tolerations", "tolerations", [{"operator": "Exists"}]),
    ("another account", "serviceAccountName", "lora-operator"),
    ("another command", "command", ["sh", "-c", "id"]),
    ("a whole pod", "podTemplate", {"spec": {"hostNetwork": True}}),
]


@pytest.mark.parametrize(("sentence", "path", "value"), FIELDS, ids=[row[0] for row in FIELDS])
def test_there_is_no_field_for_it(
    mallory: Person,
    sentence: str,
    path: str,
    value: Any,  # noqa: ANN401
) -> None:
    body = a_run(path, value).manifest()
    status, message = refusal(lambda: mallory.create(PLURAL, body, strict=True))
    assert (status, f'unknown field "spec.{path}"' in message) == (400, True), sentence
    *parents, leaf = path.split(".")
    kept = mallory.create(PLURAL, body)["spec"]
    for parent in parents:
        kept = kept[parent]
    assert leaf not in kept, "a lenient request keeps the field"


@pytest.mark.parametrize(
    ("field", "value"), [("image", "evil.example/t:v1"), ("user", "ben"), ("recipe", "flux")]
)
def test_what_was_admitted_is_not_swapped_afterwards(
    mallory: Person, field: str, value: str
) -> None:
    status, message = refusal(
        lambda: mallory.patch(PLURAL, NAMESPACE, "first", {"spec": {field: value}})
    )
    assert (status, f"spec.{field} is immutable" in message) == (422, True)


COMPLETED = {"status": {"phase": "Completed"}}
EMPTIED: dict[str, Any] = {"spec": {"users": []}}


def test_an_editor_writes_neither_status_nor_ledger_nor_policy(mallory: Person) -> None:
    attempts = [
        lambda: mallory.patch_status(PLURAL, NAMESPACE, "first", COMPLETED),
        lambda: mallory.patch(LEDGERS, NAMESPACE, "m2026-11", EMPTIED),
        lambda: mallory.delete(LEDGERS, NAMESPACE, "m2026-11"),
        lambda: mallory.patch(POLICIES, NAMESPACE, "default", {"spec": {"caps": None}}),
        lambda: mallory.delete(POLICIES, NAMESPACE, "default"),
    ]
    for attempt in attempts:
        status, message = refusal(attempt)
        assert (status, 'User "mallory" cannot' in message) == (403, True)


def test_not_even_every_right_in_the_namespace_opens_status_and_ledger(wildcard: Person) -> None:
    attempts = {
        "loratrainings/status": lambda: wildcard.patch_status(
            PLURAL, NAMESPACE, "first", COMPLETED
        ),
        "trainingpolicies/status": lambda: wildcard.patch_status(
            POLICIES, NAMESPACE, "default", {"status": {"trainings": 0}}
        ),
        LEDGERS: lambda: wildcard.patch(LEDGERS, NAMESPACE, "m2026-11", EMPTIED),
    }
    for what, attempt in attempts.items():
        status, message = refusal(attempt)
        assert status == 403
        assert f"{what} is written by the operator alone, not by wildcard" in message
    status, message = refusal(lambda: wildcard.delete(LEDGERS, NAMESPACE, "m2026-11"))
    assert (status, "written by the operator alone" in message) == (403, True)


def test_a_ledger_goes_with_its_namespace(guarded: Guarded, admin: Person) -> None:
    namespace = guarded.make_namespace("passing")
    ledger = {**LEDGER, "metadata": {"name": "m2026-11", "namespace": namespace}}
    admin.create(LEDGERS, ledger, dry_run=False)
    guarded.delete_namespace(namespace)
    eventually(lambda: not guarded.has_namespace(namespace), "the namespace is gone")


def test_the_administrator_may_mend_a_status(admin: Person) -> None:
    assert admin.patch_status(PLURAL, NAMESPACE, "first", {"status": {"message": "seen to"}})


def test_a_run_created_with_a_status_has_none(mallory: Person) -> None:
    body = {**a_run().manifest(), **COMPLETED}
    assert "status" not in mallory.create(PLURAL, body)
