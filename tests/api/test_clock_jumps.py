"""The operator's wall clock jumps while it leads: runs live on, and the Lease is kept.

A module of its own because the clock is bent for the process alone, by libfaketime from Debian.
"""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_job, a_pod, a_training
from tests.results import a_good_result

from lora_cluster import packages
from lora_cluster.light import LightCluster
from lora_operator.kube.client import MERGE_PATCH
from lora_operator.kube.resources import LEASES, TRAININGS

pytestmark = pytest.mark.api


class BentClock:
    """How far the operator's wall clock is off, in whole seconds."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self.bend(0)
        self.variables = {
            "LD_PRELOAD": packages.FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            # A jump of the wall clock leaves the others alone.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def bend(self, seconds: int) -> None:
        self._file.write_text(f"{seconds:+d}\n")


@pytest.fixture
def clock(tmp_path: Path) -> BentClock:
    packages.ensure(packages.FOR_CLOCKS)
    return BentClock(tmp_path)


@pytest.fixture
def stage(light_cluster: LightCluster) -> Stage:
    api = ApiServer(light_cluster.kubeconfig)
    namespace = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    return Stage(api, a_training().in_namespace(namespace))


@pytest.fixture
def operator(stage: Stage, clock: BentClock) -> Iterator[Operator]:
    arguments = (f"--namespace={stage.namespace}", f"--lease-namespace={stage.namespace}")
    process = Operator(stage.api.kubeconfig, *arguments)
    process.variables = clock.variables
    process.start()
    eventually(lambda: process.leads, "it leads")
    yield process
    process.kill()


def in_wait(stage: Stage) -> Stage:
    """A run whose pod finds no node; it may wait for an hour."""
    waiting = Stage(stage.api, stage.training.named("ida"))
    waiting.apply()
    waiting.add_pod(a_pod().named("ida-train-x1").unschedulable("0/3 nodes are available"))
    waiting.is_in("Pending", "Unschedulable")
    return waiting


def ended(stage: Stage) -> Stage:
    """A run that is over, and is deleted half an hour later."""
    over = Stage(stage.api, stage.training.named("eva").with_spec("retention.ttlSeconds", 1800))
    over.apply()
    over.add_pod(a_pod().named("eva-train-x1").placed().ended(0, a_good_result()))
    eventually(lambda: "artifact" in over.status, "the artifact is recorded")
    over.set_job(a_job().complete())
    over.is_in("Completed")
    return over


@pytest.mark.parametrize("jump", [3600, -3600])
def test_a_jump_of_an_hour_changes_nothing_for_a_run(
    stage: Stage, operator: Operator, clock: BentClock, jump: int
) -> None:
    stage.apply()
    pod = a_pod().placed()
    stage.add_pod(pod.running())
    stage.is_in("Starting", "Running")
    waiting, over = in_wait(stage), ended(stage)
    clock.bend(jump)
    # Both are looked at again: the one shows it, the other would be gone.
    waiting.set_pod(a_pod().named("ida-train-x1").unschedulable("0/4 nodes are available"))
    eventually(lambda: "0/4 nodes" in waiting.status["message"], "the wait is looked at again")
    waiting.is_in("Pending", "Unschedulable")
    path = TRAININGS.path(over.namespace, over.name)
    over.api.request("PATCH", path, {"metadata": {"labels": {"seen": "again"}}}, MERGE_PATCH)
    # Another run shows that the operator has looked around since.
    other = Stage(stage.api, stage.training.named("ben"))
    other.apply()
    other.is_in("Pending", "PodPending")
    stage.is_in("Starting", "Running")
    stage.set_pod(pod.ended(0, a_good_result()))
    stage.set_job(a_job().complete())
    assert stage.is_in("Completed")["attempts"] == 1
    over.is_in("Completed")
    assert over.jobs()
    assert operator.leads
    last = datetime.fromisoformat(operator.events()[-1]["time"])
    assert abs((last - datetime.now(UTC)).total_seconds()) > 1800, "the clock was bent"
    bad = {"ending", "beginning anew", "reconcile broke"}
    assert {line["event"] for line in operator.events()}.isdisjoint(bad)


def await_renewals(stage: Stage, count: int) -> None:
    """Wait until the Lease was renewed so many times."""
    seen = set()

    def is_enough() -> bool:
        lease = stage.api.get(LEASES, stage.namespace, "lora-operator")
        assert lease is not None
        seen.add(lease["spec"]["renewTime"])
        return len(seen) > count

    eventually(is_enough, "the Lease is renewed")


def test_a_standby_whose_clock_jumps_takes_no_lease_that_is_held(
    stage: Stage, clock: BentClock
) -> None:
    arguments = (f"--namespace={stage.namespace}", f"--lease-namespace={stage.namespace}")
    leader, standby = (
        Operator(stage.api.kubeconfig, *arguments, identity=name) for name in ("leader", "standby")
    )
    standby.variables = clock.variables
    try:
        leader.start()
        eventually(lambda: leader.leads, "it leads")
        standby.start()
        # Often, because a jump in the moment of a renewal would show nothing.
        for hours in (1, 2, 3, 4, 5, -1):
            clock.bend(hours * 3600)
            # Meanwhile the standby looks more than once.
            await_renewals(stage, 2)
            assert (leader.leads, standby.leads) == (True, False), hours
        leader.kill()
        eventually(lambda: standby.leads, "it follows all the same")
    finally:
        leader.kill()
        standby.kill()
