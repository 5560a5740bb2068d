"""Real trainings that are held back, let go, cancelled and cleaned up."""

from collections.abc import Callable

import pytest
from kubernetes.client.exceptions import ApiException
from tests.e2e.conftest import Cluster, Training, condition, has_ended

from lora_api import GROUP, VERSION
from lora_api.training import PLURAL

pytestmark = pytest.mark.e2e
Build = Callable[..., Training]
# Long enough that a suspension or a cancellation always meets it at work.
LONG = {"optimization.steps": 2000, "checkpoints.everySteps": 100}


def patch(cluster: Cluster, training: Training, spec: dict[str, object]) -> None:
    meta = training["metadata"]
    cluster.objects.patch_namespaced_custom_object(
        GROUP, VERSION, meta["namespace"], PLURAL, meta["name"], {"spec": spec}
    )


def test_a_suspended_training_gives_its_gpu_back_and_goes_on_from_the_same_step(
    cluster: Cluster, namespace: str, a_run: Build
) -> None:
    training = a_run("held", LONG)
    cluster.create(training)
    cluster.wait(namespace, "held", lambda s: s.get("progress", {}).get("step", 0) >= 50)
    patch(cluster, training, {"suspend": True})
    status = cluster.wait(namespace, "held", lambda s: s.get("phase") == "Suspended")
    (attempt,) = status["recentAttempts"]
    assert attempt["exitCode"] == 143
    assert attempt["step"] >= 50
    assert (
        cluster.core.list_namespaced_pod(namespace, field_selector="status.phase=Running").items
        == []
    )

    patch(cluster, training, {"suspend": False})
    status = cluster.wait(
        namespace,
        "held",
        # Until its checkpoint is read, the next attempt knows of no step.
        lambda s: s.get("attempts") == 2 and s["phase"] == "Training" and s["progress"]["step"] > 0,
    )
    assert status["progress"]["step"] >= attempt["step"]
    job = cluster.batch.read_namespaced_job("held-train", namespace)
    assert not job.status.failed
    patch(cluster, training, {"cancel": {}})
    status = cluster.wait(namespace, "held", lambda s: s.get("phase") == "Cancelled")
    assert condition(status, "Succeeded")["reason"] == "Cancelled"


def test_nothing_is_left_of_a_run_whose_time_is_over(
    cluster: Cluster, namespace: str, a_run: Build
) -> None:
    training = a_run("brief", {"retention.jobSeconds": 0})
    cluster.create(training)
    status = cluster.wait(namespace, "brief", has_ended)
    assert status["phase"] == "Completed", status
    children = ("job,pod,pvc", "--selector=loratraining.dev/run=brief", f"--namespace={namespace}")
    cluster.kubectl("wait", "--for=delete", *children, "--timeout=120s")
    patch(cluster, training, {"retention": {"ttlSeconds": 0}})
    cluster.kubectl(
        "wait", "--for=delete", "loratraining/brief", f"--namespace={namespace}", "--timeout=60s"
    )
    with pytest.raises(ApiException):
        cluster.read(namespace, "brief")
