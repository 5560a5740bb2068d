"""The rules that the API server keeps by itself: each one met and each one broken, word by word."""

from typing import Any

import pytest
from tests.api.guarded import Guarded, Person, refusal, until_refused
from tests.builders import ATraining, a_training

from lora_api.training import PLURAL
from lora_crd.admission import RULES
from lora_crd.admission_names import QUEUE_LABEL, QUEUE_PRIORITY_LABEL

pytestmark = pytest.mark.api

POLICY: dict[str, Any] = {
    "maxConcurrentGPUs": 6,
    "maxConcurrentGPUsPerUser": 5,
    "caps": {
        "gpus": 4,
        "steps": 2000,
        "rank": 32,
        "resolution": 768,
        "images": 40,
        "workspaceSize": "100Gi",
        "activeDeadlineSeconds": 7200,
        "retries": 3,
    },
    "allowedRecipes": ["sd15", "sdxl"],
    "allowedBaseModelPrefixes": ["s3://bases/"],
    "allowedDatasetPrefixes": ["s3://datasets/{user}/", "s3://shared/pictures/"],
    "allowedOutputPrefixes": ["s3://models/{user}/"],
    "allowedImages": ["reg.example/lora/", "reg.example/trainer:", "reg.example/exact:v1"],
    "allowedCredentialsSecrets": ["s3", "s3-fast"],
    "allowedQueues": ["gpus"],
    "priorityClasses": [{"name": "low", "value": 0}, {"name": "high", "value": 100}],
    "requiredLabels": ["team", "example.com/cost-centre"],
}
# The same policy but for what stands before the cap that a row is about.
WITHOUT_GPU_CAP = {**POLICY, "caps": {}}
WITHOUT_USER_GPUS = {k: v for k, v in WITHOUT_GPU_CAP.items() if k != "maxConcurrentGPUsPerUser"}
NAMESPACES = {
    "limited": POLICY,
    "limited-per-user": WITHOUT_GPU_CAP,
    "limited-in-total": WITHOUT_USER_GPUS,
    "with-output": {
        "maxConcurrentGPUs": 6,
        "allowedOutputPrefixes": ["s3://models/{user}/"],
        "defaults": {"outputPrefix": "s3://models/{user}/"},
    },
    "with-one-output": {"maxConcurrentGPUs": 6, "defaults": {"outputPrefix": "s3://models/"}},
}


def a_run(path: str = "", value: Any = None) -> ATraining:  # noqa: ANN401
    """A run that keeps every rule, with one field set."""
    run = a_training().in_namespace("limited").with_spec("user", "anna").labelled(LABELS)
    return run.with_spec(path, value) if path else run


LABELS = {"team": "faces", "example.com/cost-centre": "7"}
DIGEST = "@sha256:" + "0" * 64

ALLOWED = [
    ("the run as it stands", a_run()),
    ("as many GPUs as the cap", a_run("resources.gpus", 4)),
    ("as many steps as the cap", a_run("optimization.steps", 2000)),
    ("epochs that make as many steps", a_run("optimization", {"epochs": 100})),
    (
        "epochs in batches, rounded up",
        a_run("optimization", {"epochs": 400, "batchSize": 2, "gradientAccumulationSteps": 2}),
    ),
    ("neither steps nor epochs", a_run("optimization", {"batchSize": 2})),
    ("the highest rank", a_run("network.rank", 32)),
    ("the highest resolution", a_run("optimization.resolution", 768)),
    ("as many pictures as the cap", a_run("dataset.maxImages", 40)),
    ("as large a workspace, in other words", a_run("workspace.size", "102400Mi")),
    ("the longest deadline", a_run("limits.activeDeadlineSeconds", 7200)),
    ("as many retries as the cap", a_run("limits.retries", 3)),
    (
        "the other recipe, small enough",
        a_run("recipe", "sdxl").with_spec("optimization.resolution", 768),
    ),
    ("the prefix itself as output, without its slash", a_run("output.uri", "s3://models/anna")),
    (
        "no output, and a policy that gives one",
        a_run("output", {"tensorboard": True}).in_namespace("with-output"),
    ),
    ("no output, and one prefix for all", a_run("output", {}).in_namespace("with-one-output")),
    ("shared pictures", a_run("dataset.uri", "s3://shared/pictures/cats/")),
    ("single files", a_run("dataset", {"uris": ["s3://datasets/anna/1.png"]})),
    ("an embedder among the base models", a_run("validation.embedderUri", "s3://bases/dino/")),
    ("an image below a prefix", a_run("image", "reg.example/lora/team/trainer:v2")),
    ("any tag", a_run("image", "reg.example/trainer:v7")),
    ("a tag with its digest", a_run("image", "reg.example/trainer:v7" + DIGEST)),
    ("one exact image", a_run("image", "reg.example/exact:v1")),
    ("a priority class of the list", a_run("priorityClassName", "high")),
    ("another Secret of the list", a_run("credentialsSecretName", "s3-fast")),
    (
        "a queue of the list, and a class in it",
        a_run().labelled({**LABELS, QUEUE_LABEL: "gpus", QUEUE_PRIORITY_LABEL: "low"}),
    ),
]

REFUSED = [
    (
        "spec.user is given",
        ATraining(namespace="limited").labelled(LABELS),
        "spec.user must be given: TrainingPolicy default counts runs by user. Set it to your own "
        "user name.",
    ),
    (
        "spec.user is the requester",
        a_run("user", "ben")
        .with_spec("output.uri", "s3://models/ben/")
        .with_spec("dataset.uri", "s3://datasets/ben/"),
        "spec.user: ben is not who makes this request (anna); for others only those may create "
        "runs who have the verb impersonate-user on loratrainings.loratraining.dev",
    ),
    (
        "resources.gpus <= caps.gpus",
        a_run("resources.gpus", 5),
        "spec.resources.gpus: 5 is more than the 4 that TrainingPolicy default allows "
        "(spec.caps.gpus)",
    ),
    (
        "resources.gpus <= maxConcurrentGPUsPerUser",
        a_run("resources.gpus", 6).in_namespace("limited-per-user"),
        "spec.resources.gpus: 6 is more than the 5 that TrainingPolicy default allows "
        "(spec.maxConcurrentGPUsPerUser)",
    ),
    (
        "resources.gpus <= maxConcurrentGPUs",
        a_run("resources.gpus", 7).in_namespace("limited-in-total"),
        "spec.resources.gpus: 7 is more than the 6 that TrainingPolicy default allows "
        "(spec.maxConcurrentGPUs)",
    ),
    (
        "optimization.steps <= caps.steps",
        a_run("optimization.steps", 2001),
        "spec.optimization.steps: 2001 is more than the 2000 that TrainingPolicy default allows "
        "(spec.caps.steps)",
    ),
    (
        "optimization.steps <= caps.steps",
        a_run("optimization", {"epochs": 101}),
        "spec.optimization.steps: 2020 is more than the 2000 that TrainingPolicy default allows "
        "(spec.caps.steps)",
    ),
    (
        "network.rank <= caps.rank",
        a_run("network.rank", 33),
        "spec.network.rank: 33 is more than the 32 that TrainingPolicy default allows "
        "(spec.caps.rank)",
    ),
    (
        "optimization.resolution <= caps.resolution",
        a_run("optimization.resolution", 776),
        "spec.optimization.resolution: 776 is more than the 768 that TrainingPolicy default "
        "allows (spec.caps.resolution)",
    ),
    (
        "optimization.resolution <= caps.resolution",
        a_run("recipe", "sdxl"),
        "spec.optimization.resolution: 1024 is more than the 768 that TrainingPolicy default "
        "allows (spec.caps.resolution)",
    ),
    (
        "dataset.maxImages <= caps.images",
        a_run("dataset.maxImages", 41),
        "spec.dataset.maxImages: 41 is more than the 40 that TrainingPolicy default allows "
        "(spec.caps.images)",
    ),
    (
        "workspace.size <= caps.workspaceSize",
        a_run("workspace.size", "0.2Ti"),
        "spec.workspace.size: 0.2Ti is more than the 100Gi that TrainingPolicy default allows "
        "(spec.caps.workspaceSize)",
    ),
    (
        "limits.activeDeadlineSeconds <= caps.activeDeadlineSeconds",
        a_run("limits.activeDeadlineSeconds", 7201),
        "spec.limits.activeDeadlineSeconds: 7201 s is more than the 7200 s that TrainingPolicy "
        "default allows (spec.caps.activeDeadlineSeconds)",
    ),
    (
        "limits.retries <= caps.retries",
        a_run("limits.retries", 4),
        "spec.limits.retries: 4 is more than the 3 that TrainingPolicy default allows "
        "(spec.caps.retries)",
    ),
    (
        "baseModel.uri in allowedBaseModelPrefixes",
        a_run("baseModel.uri", "s3://bases-of-others/x/"),
        "spec.baseModel.uri: s3://bases-of-others/x/ lies under none of the prefixes that "
        "TrainingPolicy default allows (spec.allowedBaseModelPrefixes): s3://bases/",
    ),
    (
        "baseModel.uri in allowedBaseModelPrefixes",
        a_run("validation.embedderUri", "s3://elsewhere/dino/"),
        "spec.baseModel.uri: s3://elsewhere/dino/ lies under none of the prefixes that "
        "TrainingPolicy default allows (spec.allowedBaseModelPrefixes): s3://bases/",
    ),
    (
        "dataset.uri in allowedDatasetPrefixes",
        a_run("dataset", {"uris": ["s3://datasets/anna/1.png", "s3://datasets/ben/1.png"]}),
        "spec.dataset.uri: s3://datasets/ben/1.png lies under none of the prefixes that "
        "TrainingPolicy default allows (spec.allowedDatasetPrefixes): s3://datasets/anna/, "
        "s3://shared/pictures/",
    ),
    (
        "output.uri in allowedOutputPrefixes",
        a_run("output.uri", "s3://models/annabel/"),
        "spec.output.uri: s3://models/annabel/ lies under none of the prefixes that TrainingPolicy "
        "default allows (spec.allowedOutputPrefixes): s3://models/anna/",
    ),
    (
        "output.uri or defaults.outputPrefix",
        a_run("output", {}),
        "spec.output.uri must be given: TrainingPolicy default gives none "
        "(spec.defaults.outputPrefix)",
    ),
    (
        "recipe in allowedRecipes",
        a_run("recipe", "flux").with_spec("optimization.resolution", 512),
        "spec.recipe: flux is none of those that TrainingPolicy default allows "
        "(spec.allowedRecipes): sd15, sdxl",
    ),
    *(
        (
            "image in allowedImages",
            a_run("image", image),
            f"spec.image: {image} is none of those that TrainingPolicy default allows "
            "(spec.allowedImages): reg.example/lora/, reg.example/trainer:, reg.example/exact:v1, "
            "the default of the operator",
        )
        for image in (
            "evil.example/lora/trainer:v2",
            "reg.example/lora",
            "reg.example/trainer",
            "reg.example/exact:v1" + DIGEST,
        )
    ),
    (
        "credentialsSecretName in allowedCredentialsSecrets",
        a_run("credentialsSecretName", "keys-of-ben"),
        "spec.credentialsSecretName: keys-of-ben is none of those that TrainingPolicy default "
        "allows (spec.allowedCredentialsSecrets): s3, s3-fast, the default of the policy",
    ),
    (
        f"metadata.labels[{QUEUE_LABEL}] in allowedQueues",
        a_run().labelled({**LABELS, QUEUE_LABEL: "reserved"}),
        f"metadata.labels[{QUEUE_LABEL}]: reserved is none of those that TrainingPolicy default "
        "allows (spec.allowedQueues): gpus",
    ),
    (
        f"metadata.labels[{QUEUE_PRIORITY_LABEL}] in priorityClasses",
        a_run().labelled({**LABELS, QUEUE_PRIORITY_LABEL: "urgent"}),
        f"metadata.labels[{QUEUE_PRIORITY_LABEL}]: urgent is none of those that TrainingPolicy "
        "default allows (spec.priorityClasses): low, high",
    ),
    (
        "spec.priorityClassName in priorityClasses",
        a_run("priorityClassName", "system-node-critical"),
        "spec.priorityClassName: system-node-critical is none of those that TrainingPolicy "
        "default allows (spec.priorityClasses): low, high",
    ),
    (
        "metadata.labels has requiredLabels",
        a_run().labelled({"team": "faces"}),
        "metadata.labels: example.com/cost-centre must be set: TrainingPolicy default requires it "
        "(spec.requiredLabels)",
    ),
]


@pytest.fixture(scope="module")
def anna(guarded: Guarded) -> Person:
    """A tenant who may create runs."""
    for namespace, policy in NAMESPACES.items():
        guarded.make_namespace(namespace, policy=policy)
        guarded.bind("anna", "lora-operator-editor", namespace)
    person = guarded.acting_as("anna")
    for namespace in NAMESPACES:
        too_much = a_run("resources.gpus", 16).in_namespace(namespace).manifest()
        until_refused(lambda body=too_much: person.create(PLURAL, body), "spec.resources.gpus: 16")
    return person


@pytest.mark.parametrize(("sentence", "run"), ALLOWED, ids=[row[0] for row in ALLOWED])
def test_allowed(anna: Person, sentence: str, run: ATraining) -> None:
    assert anna.create(PLURAL, run.manifest())["kind"] == "LoRATraining", sentence


@pytest.mark.parametrize(("rule", "run", "told"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_with_field_value_and_cap(
    anna: Person, rule: str, run: ATraining, told: str
) -> None:
    status, message = refusal(lambda: anna.create(PLURAL, run.manifest()))
    assert status == 403
    assert message.endswith(f"denied request: {told}"), message


def test_every_rule_has_a_row_that_breaks_it() -> None:
    assert {rule.name for rule in RULES} == {row[0] for row in REFUSED}


def test_a_user_of_whom_no_folder_can_be_made_has_to_name_the_output(
    guarded: Guarded, anna: Person
) -> None:
    assert anna.create(PLURAL, a_run("output", {}).in_namespace("with-output").manifest())
    guarded.bind("oidc:anna", "lora-operator-editor", "with-output")
    run = a_run("output", {}).with_spec("user", "oidc:anna").in_namespace("with-output")
    _, told = refusal(lambda: guarded.acting_as("oidc:anna").create(PLURAL, run.manifest()))
    assert (
        "spec.output.uri must be given: TrainingPolicy default gives s3://models/{user}/, and "
        "oidc:anna fits no {user} (spec.defaults.outputPrefix)" in told
    )


def test_without_a_policy_everything_is_allowed(guarded: Guarded) -> None:
    namespace = guarded.make_namespace("free")
    guarded.bind("anna", "lora-operator-editor", namespace)
    run = a_run("resources.gpus", 16).in_namespace(namespace).with_spec("image", "any/image:v1")
    assert guarded.acting_as("anna").create(PLURAL, run.manifest())


def test_a_policy_of_another_name_does_not_act(guarded: Guarded) -> None:
    namespace = guarded.make_namespace("unnamed", policy={"caps": {"gpus": 1}})
    guarded.acting_as(None).delete("trainingpolicies", namespace, "default")
    guarded.apply(
        {
            "apiVersion": "loratraining.dev/v1alpha1",
            "kind": "TrainingPolicy",
            "metadata": {"name": "strict", "namespace": namespace},
            "spec": {"caps": {"gpus": 0}},
        }
    )
    guarded.bind("anna", "lora-operator-editor", namespace)
    run = a_run("resources.gpus", 1).in_namespace(namespace)
    assert guarded.acting_as("anna").create(PLURAL, run.manifest())


def test_a_gateway_with_the_verb_may_create_runs_for_others(guarded: Guarded, anna: Person) -> None:
    rule = {
        "apiGroups": ["loratraining.dev"],
        "resources": ["loratrainings"],
        "verbs": ["create", "impersonate-user"],
    }
    guarded.make_role("gateway", rule)
    guarded.bind("portal", "gateway", "limited")
    assert guarded.acting_as("portal").create(PLURAL, a_run().manifest())
    assert anna.can("create", "loratrainings", "limited")
    assert not anna.can("impersonate-user", "loratrainings", "limited")


def test_a_run_under_way_outlives_a_stricter_policy_and_can_be_cancelled(
    guarded: Guarded, anna: Person
) -> None:
    namespace = guarded.make_namespace("tightened")
    guarded.bind("anna", "lora-operator-editor", namespace)
    run = a_run("resources.gpus", 4).in_namespace(namespace)
    anna.create(PLURAL, run.manifest(), dry_run=False)
    guarded.make_namespace(
        namespace,
        policy={
            "caps": {"gpus": 1},
            "priorityClasses": [],
            "requiredLabels": ["colour"],
            "allowedOutputPrefixes": [],
        },
    )
    until_refused(
        lambda: anna.patch(PLURAL, namespace, "anna", {"spec": {"priorityClassName": "high"}}),
        "spec.priorityClassName: high",
    )
    patched = anna.patch(PLURAL, namespace, "anna", {"spec": {"cancel": {}}})
    assert patched["spec"]["cancel"] == {"keepPartial": False}


def test_a_queue_is_not_entered_afterwards(guarded: Guarded, anna: Person) -> None:
    anna.create(PLURAL, a_run().named("queued").manifest(), dry_run=False)
    body = {"metadata": {"labels": {QUEUE_LABEL: "reserved"}}}
    status, message = refusal(lambda: anna.patch(PLURAL, "limited", "queued", body))
    assert (status, f"{QUEUE_LABEL}]: reserved is none" in message) == (403, True)


def test_a_required_label_cannot_be_taken_off(guarded: Guarded, anna: Person) -> None:
    anna.create(PLURAL, a_run().named("labelled").manifest(), dry_run=False)
    status, message = refusal(
        lambda: anna.patch(PLURAL, "limited", "labelled", {"metadata": {"labels": {"team": None}}})
    )
    assert (status, "metadata.labels: team must be set" in message) == (403, True)
