"""What a real API server says to good, mistaken and hostile runs."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from lora_api import GROUP, VERSION
from lora_api.training import PLURAL

pytestmark = pytest.mark.api

ROOT = Path(__file__).parents[2]
QUICKSTART = yaml.safe_load((ROOT / "examples/quickstart/loratraining.yaml").read_text())
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def objects(light_cluster: Any) -> client.CustomObjectsApi:  # noqa: ANN401
    from kubernetes import config  # noqa: PLC0415

    api = config.new_client_from_config(str(light_cluster.kubeconfig))
    return client.CustomObjectsApi(api)


@pytest.fixture
def create(objects: client.CustomObjectsApi) -> Callable[[Manifest], Manifest]:
    def _create(manifest: Manifest, *, dry_run: bool = True) -> Manifest:
        options = {"dry_run": "All"} if dry_run else {}
        created: Manifest = objects.create_namespaced_custom_object(
            GROUP, VERSION, "default", PLURAL, manifest, **options
        )
        return created

    return _create


def changed(path: str, value: Any) -> Manifest:  # noqa: ANN401
    """The quickstart's run with one field set (or, for None, removed)."""
    manifest: Manifest = copy.deepcopy(QUICKSTART)
    manifest["metadata"].pop("namespace")
    *parents, leaf = path.split(".")
    node = manifest
    for name in parents:
        node = node.setdefault(name, {})
    if value is None:
        node.pop(leaf)
    else:
        node[leaf] = value
    return manifest


ACCEPTED = [
    ("the quickstart as it stands", "metadata.name", "zorp"),
    (
        "more memory for another attempt",
        "spec.resources",
        {"memory": 8589934591, "memoryOnRetry": "8Gi"},
    ),
    ("epochs instead of steps", "spec.optimization", {"epochs": 10}),
    ("neither steps nor epochs", "spec.optimization", {"batchSize": 2}),
    ("no validation section", "spec.validation", None),
    (
        "single files with a caption template",
        "spec.dataset",
        {
            "uris": ["s3://datasets/a.png"],
            "triggerWord": "z",
            "captionTemplate": "a {trigger}",
            "minImages": 8,
        },
    ),
    ("a trainer image by digest", "spec.image", "registry.local/t@sha256:" + "0" * 64),
    ("a run on the CPU", "spec.resources.gpus", 0),
    ("a name of 52 characters", "metadata.name", "n" * 52),
    ("processors as a plain number", "spec.resources.cpu", 2),
    ("half a gibibyte", "spec.resources.memory", "0.5Gi"),
    ("a workspace in bytes", "spec.workspace.size", 8589934592),
    ("no output of its own", "spec.output", None),
    ("an output without a place", "spec.output", {"tensorboard": True}),
]

REFUSED = [
    ("no dataset", "spec.dataset", None, "spec.dataset"),
    ("an empty place for the output", "spec.output.uri", "", "spec.output.uri"),
    ("a rank of zero", "spec.network.rank", 0, "spec.network.rank"),
    ("a huge rank", "spec.network.rank", 10**9, "spec.network.rank"),
    ("a negative learning rate", "spec.optimization.learningRate", -1e-4, "learningRate"),
    ("a learning rate of zero", "spec.optimization.learningRate", 0, "learningRate"),
    ("a text where a number belongs", "spec.optimization.steps", "many", "steps"),
    ("an unknown scheduler", "spec.optimization.lrScheduler", "cosmic", "lrScheduler"),
    ("a resolution off the grid of 8", "spec.optimization.resolution", 100, "resolution"),
    ("both steps and epochs", "spec.optimization", {"steps": 5, "epochs": 5}, "steps or epochs"),
    (
        "a warm-up beyond the end",
        "spec.optimization",
        {"steps": 5, "warmupSteps": 6},
        "warmupSteps",
    ),
    (
        "a warm-up beyond the default's end",
        "spec.optimization",
        {"warmupSteps": 1001},
        "warmupSteps",
    ),
    ("seventeen prompts", "spec.validation.prompts", ["p"] * 17, "prompts"),
    ("an endless prompt", "spec.validation.prompts", ["p" * 1001], "prompts"),
    ("more pictures held out than there are", "spec.validation.heldOutImages", 8, "heldOutImages"),
    ("minimum above maximum", "spec.dataset", {"uri": "s3://datasets/a", "minImages": 30}, "minIm"),
    ("a local file as dataset", "spec.dataset.uri", "file:///etc", "must start with s3://"),
    ("a local file as output", "spec.output.uri", "file:///tmp/x", "must start with s3://"),
    (
        "a metadata service as base",
        "spec.baseModel.uri",
        "http://169.254.169.254/",
        "baseModel.uri",
    ),
    ("a step up in the output", "spec.output.uri", "s3://models/../other", "spec.output.uri"),
    ("a secret's name with a slash", "spec.credentialsSecretName", "a/b", "credentialsSecretName"),
    ("an image with a space", "spec.image", "trainer --privileged", "spec.image"),
    ("a negative quantity", "spec.resources.memory", "-1Gi", "memory"),
    ("thousandths of a byte", "spec.resources.memory", "1m", "spec.resources.memory"),
    ("more memory than there is", "spec.resources.memory", "9999999Ti", "spec.resources.memory"),
    ("a terabyte of processors", "spec.resources.cpu", "1Ti", "spec.resources.cpu"),
    ("a Secret that no Secret can be called", "spec.credentialsSecretName", "a..b", "parts separ"),
    ("a class that no class can be called", "spec.workspace.storageClassName", "a.-b", "parts sep"),
    ("an image that can't be pulled", "spec.image", "a//b:::", "must be an image reference"),
    (
        "a local file among the dataset's",
        "spec.dataset",
        {"uris": ["s3://datasets/a.png", "file:///etc/shadow"]},
        "must start with s3://",
    ),
    (
        "a prefix and single files",
        "spec.dataset",
        {"uri": "s3://datasets/a", "uris": ["s3://datasets/a.png"]},
        "and not both",
    ),
    (
        "a caption template without its trigger word",
        "spec.dataset",
        {"uri": "s3://datasets/a", "captionTemplate": "a {trigger}"},
        "triggerWord must be set",
    ),
    ("a web address as dataset", "spec.dataset.uri", "https://x/y", "must be s3://bucket/path"),
    ("letters that no URI has", "spec.dataset.uri", "s3://datasets/\u00fcber/", "parts of letters"),
    ("no GPU count but a fraction", "spec.resources.gpus", 0.5, "gpus"),
    ("seventeen GPUs", "spec.resources.gpus", 17, "gpus"),
    ("a workspace of another kind", "spec.workspace.type", "HostPath", "workspace.type"),
    ("a deadline of a second", "spec.limits.activeDeadlineSeconds", 1, "activeDeadlineSeconds"),
    ("a module path with shell in it", "spec.network.targetModules", ["$(id)"], "targetModules"),
    ("no target module", "spec.network.targetModules", [], "targetModules"),
    (
        "no more memory for another attempt",
        "spec.resources",
        {"memory": "8Gi", "memoryOnRetry": "8192Mi"},
        "memoryOnRetry must be above memory",
    ),
    ("a name of 53 characters", "metadata.name", "n" * 53, "at most 52 characters"),
]


@pytest.mark.parametrize(("sentence", "path", "value"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_accepted(
    create: Callable[[Manifest], Manifest],
    sentence: str,
    path: str,
    value: Any,  # noqa: ANN401
) -> None:
    assert create(changed(path, value))["kind"] == "LoRATraining", sentence


@pytest.mark.parametrize(
    ("sentence", "path", "value", "told"), REFUSED, ids=[row[0] for row in REFUSED]
)
def test_refused_with_a_message_that_names_the_field(
    create: Callable[[Manifest], Manifest],
    sentence: str,
    path: str,
    value: Any,  # noqa: ANN401
    told: str,
) -> None:
    with pytest.raises(ApiException) as caught:
        create(changed(path, value))
    assert caught.value.status == 422, sentence
    assert told in caught.value.body


def test_defaults_are_filled_in_by_the_api_server(
    create: Callable[[Manifest], Manifest],
) -> None:
    manifest = changed("spec.checkpoints", None)
    for section in ("network", "limits", "workspace", "resources"):
        manifest["spec"].pop(section, None)
    spec = create(manifest)["spec"]
    assert spec["network"]["dropout"] == 0
    assert spec["limits"] == {
        "activeDeadlineSeconds": 7200,
        "retries": 3,
        "creationTimeoutSeconds": 3600,
        "scheduleTimeoutSeconds": 3600,
        "startTimeoutSeconds": 1800,
        "stallTimeoutSeconds": 600,
    }
    assert spec["workspace"]["type"] == "PersistentVolumeClaim"
    assert spec["retention"] == {}, "what is left open here, the namespace's policy may say"
    assert spec["suspend"] is False


def test_an_unknown_field_is_dropped_and_strict_clients_are_told(
    objects: client.CustomObjectsApi,
) -> None:
    manifest = changed("spec.network.rnak", 8)
    with pytest.raises(ApiException) as caught:
        objects.create_namespaced_custom_object(
            GROUP, VERSION, "default", PLURAL, manifest, field_validation="Strict"
        )
    assert 'unknown field \\"spec.network.rnak\\"' in caught.value.body


CHANGES: list[tuple[str, Manifest, str]] = [
    ("a setting", {"network": {"rank": 4}}, "spec.network is immutable"),
    ("a setting that was not given", {"user": "ben"}, "spec.user is immutable"),
    ("a limit", {"limits": {"retries": 9}}, "spec.limits is immutable"),
    ("a section taken away", {"output": None}, "spec.output"),
    ("suspend", {"suspend": True}, ""),
    ("resume", {"suspend": False}, ""),
    ("retention", {"retention": {"ttlSeconds": 60, "workspace": "Retain"}}, ""),
    ("priority", {"priorityClassName": "high"}, ""),
    ("priority taken away", {"priorityClassName": None}, ""),
    ("cancel", {"cancel": {}}, ""),
    ("how to cancel", {"cancel": {"keepPartial": True}}, ""),
    ("cancel taken back", {"cancel": None}, "can't be taken back"),
]


def test_of_a_spec_only_what_is_meant_to_change_can(
    objects: client.CustomObjectsApi, create: Callable[..., Manifest]
) -> None:
    manifest = changed("metadata.name", "fixed")
    del manifest["spec"]["user"]
    create(manifest, dry_run=False)
    where = (GROUP, VERSION, "default", PLURAL, "fixed")
    try:
        for sentence, patch, refusal in CHANGES:
            told = ""
            try:
                objects.patch_namespaced_custom_object(*where, {"spec": patch})
            except ApiException as error:
                told = str(error.body)
            assert bool(told) == bool(refusal), f"{sentence}: {told}"
            assert refusal in told, sentence
    finally:
        objects.delete_namespaced_custom_object(*where)


def test_status_is_written_only_through_its_subresource(
    objects: client.CustomObjectsApi, create: Callable[..., Manifest]
) -> None:
    create(changed("metadata.name", "statusful"), dry_run=False)
    where = (GROUP, VERSION, "default", PLURAL, "statusful")
    try:
        body = {"status": {"phase": "Training"}}
        assert "status" not in objects.patch_namespaced_custom_object(*where, body)
        written = objects.patch_namespaced_custom_object_status(*where, body)
        assert written["status"]["phase"] == "Training"
        with pytest.raises(ApiException) as caught:
            objects.patch_namespaced_custom_object_status(*where, {"status": {"phase": "Napping"}})
        assert caught.value.status == 422
    finally:
        objects.delete_namespaced_custom_object(*where)
