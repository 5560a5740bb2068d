"""What a user reads when something is wrong: a reason, and one sentence with field and cure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.e2e.conftest import QUICKSTART, Cluster, Training, condition, has_ended

from lora_demo import storage as store

pytestmark = pytest.mark.e2e
Build = Callable[..., Training]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mistake and what has to be said about it."""

    name: str
    changes: dict[str, Any]
    reason: str
    told: tuple[str, ...]
    waits: bool = False
    retryable: bool | None = field(default=None)


CASES = [
    Case(
        name="missing-bucket",
        changes={"dataset.uri": "s3://no-such-bucket/pictures/"},
        reason="BucketNotFound",
        told=("no-such-bucket", "dataset.uri"),
        retryable=False,
    ),
    Case(
        name="missing-prefix",
        changes={"dataset.uri": "s3://datasets/no-such-prefix/"},
        reason="ObjectNotFound",
        told=("no-such-prefix", "dataset.uri"),
        retryable=False,
    ),
    Case(
        name="missing-base",
        changes={"baseModel.uri": "s3://bases/no-such-model/"},
        reason="BaseModelNotFound",
        told=("no-such-model", "baseModel.uri"),
        retryable=False,
    ),
    Case(
        name="too-few",
        changes={"dataset.uri": "s3://datasets/e2e-two/"},
        reason="TooFewImages",
        told=("2", "minImages"),
        retryable=False,
    ),
    Case(
        name="too-many",
        changes={"dataset.maxImages": 9},
        reason="TooManyImages",
        told=("maxImages",),
        retryable=False,
    ),
    Case(
        name="corrupt",
        changes={"dataset.uri": "s3://datasets/e2e-corrupt/"},
        reason="InvalidImages",
        told=("broken.png",),
        retryable=False,
    ),
    Case(
        name="wrong-credentials",
        changes={"credentialsSecretName": "wrong"},
        reason="AccessDenied",
        told=("credentials",),
        retryable=False,
    ),
    Case(
        name="dead-endpoint",
        changes={"credentialsSecretName": "dead"},
        reason="StorageUnreachable",
        told=("AWS_ENDPOINT_URL",),
        retryable=True,
    ),
    Case(
        name="bad-modules",
        changes={"network.targetModules": ["to_nowhere"]},
        reason="TargetModulesNotFound",
        told=("to_nowhere", "network.targetModules"),
        retryable=False,
    ),
    Case(
        name="unknown-recipe",
        changes={"recipe": "sd99"},
        reason="RecipeNotFound",
        told=("sd99", "sd15"),
        retryable=False,
    ),
    Case(
        name="unknown-image",
        changes={"image": "localhost/no-such-trainer:v0"},
        reason="ImagePullFailed",
        told=("localhost/no-such-trainer:v0", "spec.image"),
        waits=True,
    ),
    Case(
        name="out-of-gpu",
        changes={"resources.gpus": 16},
        reason="Unschedulable",
        told=("nvidia.com/gpu", "spec.resources.gpus"),
        waits=True,
    ),
    Case(
        name="missing-secret",
        changes={"credentialsSecretName": "forgotten"},
        reason="SecretNotFound",
        told=("forgotten", "spec.credentialsSecretName"),
        waits=True,
    ),
    Case(
        name="no-such-class",
        changes={"workspace.storageClassName": "no-such-class"},
        reason="WorkspacePending",
        told=("no-such-class", "spec.workspace.storageClassName"),
        waits=True,
    ),
]


@pytest.fixture(scope="module")
def mistakes(cluster: Cluster, namespace: str) -> None:
    """What the mistaken runs point at."""
    pictures = sorted((QUICKSTART / "dataset").glob("*.png"))
    for picture in pictures[:2]:
        cluster.upload("s3://datasets/e2e-two/", picture.name, picture.read_bytes())
    for picture in pictures[:5]:
        cluster.upload("s3://datasets/e2e-corrupt/", picture.name, picture.read_bytes())
    half = pictures[0].read_bytes()
    cluster.upload("s3://datasets/e2e-corrupt/", "broken.png", half[: len(half) // 2])
    cluster.make_secret(namespace, "wrong", AWS_SECRET_ACCESS_KEY="not-the-key")
    cluster.make_secret(namespace, "dead", AWS_ENDPOINT_URL="http://127.0.0.1:1")


@pytest.mark.usefixtures("mistakes")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_mistake_is_named_with_its_field_and_cure(
    case: Case, cluster: Cluster, namespace: str, a_run: Build
) -> None:
    cluster.create(a_run(case.name, case.changes))
    if case.waits:
        status = cluster.wait(
            namespace,
            case.name,
            lambda status: (
                _waits_for(status) == case.reason
                and all(words in status["message"] for words in case.told)
            ),
        )
        assert status["phase"] in {"Pending", "Starting"}
    else:
        status = cluster.wait(namespace, case.name, has_ended)
        assert status["phase"] == "Failed"
        assert status["failure"]["reason"] == case.reason, status
        assert status["failure"]["retryable"] is case.retryable
    for words in case.told:
        assert words in status["message"], status["message"]
    assert "Traceback" not in status["message"]
    cluster.kubectl("delete", "loratraining", case.name, "-n", namespace, "--wait")


def _waits_for(status: dict[str, Any]) -> str | None:
    reason: str | None = condition(status, "Running").get("reason")
    return reason


def test_a_run_that_waits_for_its_secret_goes_on_when_the_secret_comes(
    cluster: Cluster, namespace: str, a_run: Build
) -> None:
    cluster.create(a_run("late-secret", {"credentialsSecretName": "late"}))
    cluster.wait(namespace, "late-secret", lambda status: _waits_for(status) == "SecretNotFound")
    cluster.make_secret(namespace, "late")
    status = cluster.wait(namespace, "late-secret", has_ended, timeout_seconds=400)
    assert status["phase"] == "Completed", status


def test_a_model_of_another_run_is_never_overwritten(
    cluster: Cluster, namespace: str, a_run: Build
) -> None:
    output = f"s3://models/{namespace}/taken/"
    cluster.upload(output, "config.json", b'{"runId": "somebody-else"}')
    cluster.upload(output, "model.safetensors", b"the only copy of somebody's model")
    cluster.create(a_run("thief", {"output.uri": output}))
    status = cluster.wait(namespace, "thief", has_ended)
    assert status["failure"]["reason"] == "OutputNotWritable", status
    assert "output.uri" in status["message"]
    bucket, prefix = store.split_uri(output)
    with cluster.storage.get_object(
        bucket_name=bucket, object_name=f"{prefix}model.safetensors"
    ) as kept:
        assert kept.read() == b"the only copy of somebody's model"
