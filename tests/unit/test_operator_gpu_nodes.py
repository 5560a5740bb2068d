"""Which GPUs the cluster has, read where a pod finds no node, and only there."""

from typing import Any

import pytest
from tests.builders import APod, ATraining, a_pod, a_training
from tests.dictionary_api import DictionaryApi
from tests.policies import a_policy
from tests.sights import seen

from lora_operator.errors import RefusedError, UnavailableError
from lora_operator.gpu_nodes import FRESH_SECONDS, GpuNodes
from lora_operator.kube.resources import NODES
from lora_operator.policy.gpu_fit import UNSET
from lora_operator.state.views import Observed, PolicyWord

LISTED = f"GET {NODES.path()}"


class Ground:
    """A cluster of labelled nodes, and a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.api = DictionaryApi()
        self.time = 0.0
        self.nodes = GpuNodes(self.api, gpu=UNSET, clock=lambda: self.time)

    def add_node(self, name: str, **labels: str) -> None:
        self.api.objects[NODES.path(None, name)] = {"metadata": {"name": name, "labels": labels}}

    def add_gpu(self, mib: int, prefix: str = "nvidia.com/gpu") -> None:
        self.add_node(f"node-{mib}", **{f"{prefix}.memory": str(mib)})

    async def misfit(self, sight: Observed) -> str | None:
        return (await self.nodes.explain(sight)).gpu_misfit

    @property
    def lists(self) -> int:
        return self.api.asked.count(LISTED)


def waits(training: ATraining | None = None, pod: APod | None = None, **policy: Any) -> Observed:  # noqa: ANN401
    pod = pod or a_pod().unschedulable("0/1 nodes are available.")
    sight = seen(training or a_training().with_recipe("flux")).with_pods(pod)
    if policy:
        sight = sight.told_by_policy(PolicyWord(policy=a_policy(**policy)))
    return sight.observed


async def test_a_run_that_no_gpu_is_large_enough_for_hears_which_there_are() -> None:
    ground = Ground()
    ground.add_gpu(4096)
    told = await ground.misfit(waits())
    assert told is not None
    assert "flux at 1024 pixels" in told
    assert "(4096 MiB) on 1 node" in told


async def test_a_run_that_one_is_large_enough_for_waits_for_room() -> None:
    ground = Ground()
    ground.add_gpu(4096)
    ground.add_gpu(81559)
    assert await ground.misfit(waits()) is None


async def test_the_labels_are_those_of_the_resource_that_the_policy_names() -> None:
    ground = Ground()
    ground.add_gpu(81559)
    ground.add_gpu(4864, prefix="nvidia.com/mig-1g.5gb")
    assert await ground.misfit(waits(gpu={"resourceName": "nvidia.com/mig-1g.5gb"})) is not None


NOT_ASKED: dict[str, Observed] = {
    "its pod is placed": waits(pod=a_pod().placed()),
    "the scheduler has not looked at it": waits(pod=a_pod()),
    "it needs no GPU": waits(a_training().with_gpus(0)),
    "it has no pod": seen().observed,
}


@pytest.mark.parametrize("sentence", NOT_ASKED)
async def test_nodes_are_not_read_for_a_run_where(sentence: str) -> None:
    ground = Ground()
    ground.add_gpu(1)
    assert await ground.misfit(NOT_ASKED[sentence]) is None
    assert ground.lists == 0


async def test_all_who_wait_share_one_read_until_it_is_old() -> None:
    ground = Ground()
    ground.add_gpu(4096)
    for _ in range(3):
        assert await ground.misfit(waits()) is not None
    assert ground.lists == 1
    ground.add_gpu(81559)
    ground.time = FRESH_SECONDS
    assert await ground.misfit(waits()) is None
    assert ground.lists == 2


@pytest.mark.parametrize(
    "error", [RefusedError("nodes is forbidden", status=403), UnavailableError("no answer")]
)
async def test_nodes_that_can_not_be_read_explain_nothing_and_stop_nobody(
    error: RefusedError | UnavailableError,
) -> None:
    ground = Ground()
    ground.add_gpu(4096)
    ground.api.refusals[("GET", "/nodes")] = error
    assert await ground.misfit(waits()) is None


async def test_a_list_that_fails_leaves_what_was_known_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ground = Ground()
    ground.add_gpu(4096)
    assert await ground.misfit(waits()) is not None
    ground.api.refusals[("GET", "/nodes")] = UnavailableError("no answer")
    ground.time = FRESH_SECONDS
    assert await ground.misfit(waits()) is not None
    assert "nodes not listed" in caplog.text
