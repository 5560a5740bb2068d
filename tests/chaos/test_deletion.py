"""Deleting while no operator lives: nothing hangs, because nothing waits for it."""

from collections.abc import Iterator

import pytest
from tests.chaos.ground import REPLICAS, Ground

from lora_demo.install import OPERATOR_NAMESPACE

pytestmark = pytest.mark.e2e
DEPLOYMENT = ("deployment/lora-operator", f"--namespace={OPERATOR_NAMESPACE}")


@pytest.fixture
def ground() -> Iterator[Ground]:
    """Two runs that train, and then no operator at all."""
    ground = Ground()
    for name in ("one", "two"):
        ground.apply(name, steps=3000)
    for name in ("one", "two"):
        run = f"loratraining/{name}"
        wish = "--for=jsonpath={.status.phase}=Training"
        ground.kubectl("wait", run, wish, f"--namespace={ground.namespace}", "--timeout=120s")
    ground.kubectl("scale", *DEPLOYMENT, "--replicas=0")
    ground.kubectl("wait", "pod", "--for=delete", "--all", *DEPLOYMENT[1:], "--timeout=120s")
    yield ground
    ground.kubectl("scale", *DEPLOYMENT, f"--replicas={REPLICAS}")
    ground.kubectl("rollout", "status", *DEPLOYMENT, "--timeout=120s")


def test_a_run_and_its_namespace_go_with_all_that_is_in_them(ground: Ground) -> None:
    where = f"--namespace={ground.namespace}"
    ground.kubectl("delete", "loratraining", "one", where, "--timeout=30s")
    children = ("job,pod,pvc", "--selector=loratraining.dev/run=one")
    ground.kubectl("wait", "--for=delete", *children, where, "--timeout=120s")
    left = ground.kubectl("get", "job,pod,pvc", where, "--output=name").split()
    assert left
    assert all("/two-" in name for name in left)
    assert ground.delete_namespace()
