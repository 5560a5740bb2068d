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
    "allowedBaseModelPrefixes": ["s3://bases/"],
    "allowedDatasetPrefixes": ["s3://datasets/{user}/"],
    "allowedOutputPrefixes": ["s3://models/{user}/"],
    "allowedImages": [],
    "allowedCredentialsSecrets": ["s3"],
    "allowedQueues": [],
    "priorityClasses": [{"name": "low", "value": 0}],
    # What a run can't choose, the policy does.
    "defaults": {"nodeSelector": [{"key": "pool", "value": "gpu"}]},
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
    run = run.with_spec("dataset.uri", "s3://datasets/mallory/")
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


Attack = tuple[str, str, Any, str]
HERE = "s3://models/mallory/"
NOT_A_PLACE = "must be s3://"
# Each is put behind a folder that mallory may write to.
DETOURS = [
    ("a step up", "../ben/"),
    ("a step up at the end", ".."),
    ("a step on the spot", "./../ben/"),
    ("an escaped step up", "%2e%2e/ben/"),
    ("a step up, half escaped", ".%2E/ben/"),
    ("an escaped slash", "..%2Fben/"),
    ("a twice escaped step up", "%252e%252e%252fben/"),
    ("an overlong slash", "..%c0%afben/"),
    ("full-width dots", "\uff0e\uff0e/ben/"),
    ("a full-width slash", "..\uff0fben/"),
    ("one character for two dots", "\u2025/ben/"),
    ("a doubled slash", "/ben/"),
    ("a backslash", "..\\ben"),
    ("a hidden character", "\u200b../ben/"),
    ("a word joiner", ".\u2060./ben/"),
    ("text that runs backwards", "\u202e/neb/"),
    ("a combining accent", "e\u0301/"),
    ("a line break", "\n../ben/"),
    ("a carriage return", "\r../ben/"),
    ("a tab", "\t"),
    ("a NUL", "\x00"),
    ("a bell", "\x07"),
    ("a delete", "\x7f"),
    ("a parameter", "..;/ben/"),
    ("a query", "?versionId=1"),
    ("a fragment", "#/../ben/"),
    ("a variable", "$(HOME)/"),
    ("a wildcard", "*"),
]
PLACES: list[Attack] = [
    ("a foreign folder", "output.uri", "s3://models/ben/", "spec.output.uri"),
    ("a foreign bucket", "output.uri", "s3://other/mallory/", "spec.output.uri"),
    ("a folder that begins alike", "output.uri", "s3://models/mallory-2/", "spec.output.uri"),
    ("a folder in capitals", "output.uri", "s3://models/Mallory/", "spec.output.uri"),
    ("the folder above", "output.uri", "s3://models/", "spec.output.uri"),
    ("the whole bucket", "output.uri", "s3://models", "spec.output.uri"),
    ("a bucket that begins alike", "output.uri", "s3://models.evil/mallory/", "spec.output.uri"),
    ("the placeholder itself", "output.uri", "s3://models/{user}/", NOT_A_PLACE),
    ("a look-alike letter", "output.uri", "s3://models/m\u0430llory/", NOT_A_PLACE),
    ("a port", "output.uri", "s3://models:9000/mallory/", NOT_A_PLACE),
    ("credentials in the URI", "output.uri", "s3://key:secret@models/mallory/", NOT_A_PLACE),
    ("a scheme in capitals", "output.uri", "S3://models/mallory/", NOT_A_PLACE),
    ("no bucket", "output.uri", "s3:///mallory/", NOT_A_PLACE),
    ("no scheme", "output.uri", "//models/mallory/", NOT_A_PLACE),
    ("a space in front", "output.uri", " s3://models/mallory/", NOT_A_PLACE),
    ("an endless place", "output.uri", HERE + "a" * 1024, "spec.output.uri"),
    ("pictures of another", "dataset.uri", "s3://datasets/ben/", "spec.dataset.uri"),
    ("a base model of one's own", "baseModel.uri", "s3://evil/sd15/", "spec.baseModel.uri"),
    *(
        (f"{what} as {field}", field, uri, told)
        for field in ("baseModel.uri", "baseModel.componentsUri", "dataset.uri", "output.uri")
        for what, uri, told in (
            ("a local file", "file:///etc/shadow", "must start with s3://"),
            ("a file of another machine", "file://ben/etc/shadow", NOT_A_PLACE),
            ("a claim", "pvc://ben-workspace/", NOT_A_PLACE),
            ("the metadata service", "http://169.254.169.254/latest/", NOT_A_PLACE),
            ("the metadata service as a bucket", "s3://169.254.169.254/latest/", f"spec.{field}"),
            ("a service of the cluster", "http://10.96.0.1:443/", NOT_A_PLACE),
            ("the API server by name", "https://kubernetes.default.svc/", NOT_A_PLACE),
            ("the trainer itself", "http://[::1]:8080/", NOT_A_PLACE),
        )
        # Components are held to the prefixes of base models, and named with them.
        for told in (told.replace("componentsUri", "uri"),)
    ),
    (
        "a local file as embedder",
        "validation.embedderUri",
        "file:///etc/shadow",
        "must start with s3://",
    ),
    (
        "a local file among others",
        "dataset",
        {"uris": ["s3://datasets/mallory/1.png", "file:///etc/shadow"]},
        "must start with s3://",
    ),
]
NAMES: list[Attack] = [
    ("another's name", "user", "ben", "spec.user: ben is not who makes this request (mallory)"),
    ("one's own name in capitals", "user", "Mallory", "spec.user: Mallory is not who"),
    ("the administrator", "user", "system:admin", "spec.user: system:admin is not who"),
    ("a user with a path", "user", "mallory/../ben", "spec.user: mallory/../ben is not"),
    ("a user with a look-alike letter", "user", "m\u0430llory", "must be letters, digits"),
    ("a user with a hidden character", "user", "mallory\u200b", "must be letters, digits"),
    ("a user with a line break", "user", "mallory\n", "must be letters, digits"),
    ("an endless user", "user", "m" * 254, "spec.user"),
    ("an empty name", "user", "", "spec.user"),
    ("another image", "image", "evil.example/trainer:v1", "spec.image: evil.example/trainer:v1"),
    ("an image with a step up", "image", "reg.example/lora/../evil:v1", "must be an image"),
    ("an image with a scheme", "image", "https://evil.example/trainer", "must be an image"),
    ("a Secret of one's own, and its endpoint", "credentialsSecretName", "mine", "mine is none of"),
    ("a Secret of another namespace", "credentialsSecretName", "kube-system/x", "must be the name"),
    ("a Secret with a step up", "credentialsSecretName", "../x", "must be the name"),
    ("a class above all", "priorityClassName", "system-node-critical", "spec.priorityClassName"),
    ("a StorageClass with a path", "workspace.storageClassName", "../x", "must be the name"),
    ("a recipe with a path", "recipe", "../sd15", "small letters, digits"),
    ("a module with a wildcard", "network.targetModules", ["*"], "must be a module's name"),
]
NUMBERS: list[Attack] = [
    ("minus one GPU", "resources.gpus", -1, "spec.resources.gpus"),
    ("all GPUs", "resources.gpus", 2**31, "spec.resources.gpus"),
    ("half a GPU", "resources.gpus", 0.5, "spec.resources.gpus"),
    ("GPUs in words", "resources.gpus", "4", "spec.resources.gpus"),
    ("more than an integer holds", "optimization.steps", 2**63, "steps"),
    ("so many that it is negative", "optimization.steps", 2**64 - 1, "steps"),
    ("minus one step", "optimization.steps", -1, "spec.optimization.steps"),
    ("no step", "optimization.steps", 0, "spec.optimization.steps"),
    ("a million epochs", "optimization", {"epochs": 10**6}, "spec.optimization.epochs"),
    ("a negative rank", "network.rank", -16, "spec.network.rank"),
    ("a million pictures", "dataset.maxImages", 10**6, "spec.dataset.maxImages"),
    ("a negative deadline", "limits.activeDeadlineSeconds", -60, "activeDeadlineSeconds"),
    ("no deadline", "limits.activeDeadlineSeconds", 10**12, "activeDeadlineSeconds"),
    ("a million retries", "limits.retries", 10**6, "spec.limits.retries"),
    ("a negative size", "workspace.size", "-1Gi", "spec.workspace.size"),
    ("a size with an exponent", "workspace.size", "1e99", "spec.workspace.size"),
    ("negative memory", "resources.memory", "-8Gi", "spec.resources.memory"),
    ("more memory than any machine", "resources.memory", "9999Ti", "spec.resources.memory"),
    ("a CPU of nothing", "resources.cpu", "0", "spec.resources.cpu"),
    ("an infinite learning rate", "optimization.learningRate", 1e308, "learningRate"),
    ("kept longer than anybody lives", "retention.ttlSeconds", 2**62, "ttlSeconds"),
    ("a thousand prompts", "validation.prompts", ["x"] * 1000, "prompts"),
    ("a prompt without end", "validation.prompts", ["x" * 10**5], "prompts"),
]
VALUES = [
    *((name, "output.uri", HERE + behind, NOT_A_PLACE) for name, behind in DETOURS),
    *PLACES,
    *NAMES,
    *NUMBERS,
]


@pytest.mark.parametrize(
    ("sentence", "path", "value", "told"), VALUES, ids=[row[0] for row in VALUES]
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
    ("another container", "initContainers", [{"name": "x", "image": "evil.example/x"}]),
    ("an environment", "env", [{"name": "LD_PRELOAD", "value": "/tmp/x.so"}]),
    ("another runtime", "runtimeClassName", "unconfined"),
    ("another scheduler", "schedulerName", "mine"),
    ("an affinity", "affinity", {"nodeAffinity": {}}),
    ("a name for another address", "hostAliases", [{"ip": "169.254.169.254"}]),
    # Where storage is, only the credentials Secret says.
    *(
        (f"an endpoint in {section}", f"{section}.{field}", "http://169.254.169.254/")
        for section in ("baseModel", "dataset", "output", "validation", "workspace")
        for field in ("endpoint", "endpointUrl")
    ),
    ("an endpoint for all", "endpointUrl", "http://10.96.0.1/"),
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


LABELS = [
    ("a queue that leads to other nodes", "kueue.x-k8s.io/queue-name", "reserved", "is none of"),
    ("a class above all in a queue", "kueue.x-k8s.io/priority-class", "urgent", "is none of"),
    ("a label's value with a path", "team", "../x", "Invalid value"),
    ("a label's value with a look-alike letter", "team", "t\u0435am", "Invalid value"),
    ("a label's key with a hidden character", "te\u200bam", "x", "Invalid value"),
]


@pytest.mark.parametrize(
    ("sentence", "key", "value", "told"), LABELS, ids=[row[0] for row in LABELS]
)
def test_a_label_is_refused(
    mallory: Person, sentence: str, key: str, value: str, told: str
) -> None:
    body = a_run().labelled({key: value}).manifest()
    status, message = refusal(lambda: mallory.create(PLURAL, body))
    assert (status in {403, 422}, told in message) == (True, True), (sentence, message)
    # Nor once the run is there.
    labels = {"metadata": {"labels": {key: value}}}
    status, message = refusal(lambda: mallory.patch(PLURAL, NAMESPACE, "first", labels))
    assert (status in {403, 422}, told in message) == (True, True), (sentence, message)


OBJECT_NAMES = [
    ("a step up", "../first"),
    ("a path", "tenant/first"),
    ("an escaped slash", "a%2ffirst"),
    ("full-width dots", "\uff0e\uff0e"),
    ("a look-alike letter", "f\u0456rst"),
    ("a hidden character", "first\u200b"),
    ("a line break", "first\n"),
    ("capitals", "First"),
    ("more than its Job could be called", "f" * 53),
]


@pytest.mark.parametrize("name", [row[1] for row in OBJECT_NAMES], ids=[r[0] for r in OBJECT_NAMES])
def test_a_run_is_not_called_so(mallory: Person, name: str) -> None:
    status, message = refusal(lambda: mallory.create(PLURAL, a_run().named(name).manifest()))
    assert (status, "metadata.name" in message) == (422, True), message


def test_a_run_in_another_namespace_is_refused(guarded: Guarded, mallory: Person) -> None:
    namespace = guarded.make_namespace("of-ben")
    status, message = refusal(
        lambda: mallory.create(PLURAL, a_run().in_namespace(namespace).manifest())
    )
    assert (status, 'User "mallory" cannot create' in message) == (403, True)


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
