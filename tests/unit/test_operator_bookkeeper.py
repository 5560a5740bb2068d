"""What is written down from time to time costs by who is at work, not by who has ended."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.dictionary_api import DictionaryApi
from tests.results import a_good_result
from tests.sights import seen

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_operator.cache import Cache
from lora_operator.gatekeeper import Gatekeeper
from lora_operator.kube.resources import POLICIES, TRAININGS, Resource
from lora_operator.state.keys import Key

POLICY = {
    "apiVersion": API_VERSION,
    "kind": POLICY_KIND,
    "metadata": {"name": ACTING_POLICY, "namespace": "studio", "uid": "p", "resourceVersion": "1"},
    "spec": {"maxConcurrentGPUs": 1},
}


class CountingCache(Cache):
    """A cache that counts how often a run is read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def get(self, resource: Resource, key: Key) -> dict[str, Any] | None:
        """What is known of an object."""
        self.reads += resource is TRAININGS
        return super().get(resource, key)


def an_ended_run() -> dict[str, Any]:
    going = seen().with_job().with_pods(a_pod().placed().running()).settled()
    done = going.with_pods(a_pod().ended(0, a_good_result())).settled()
    status = done.with_job(a_job().complete()).settled().observed.run.status
    body = a_training().with_status(status).stored()
    body["status"]["cost"] = {"amount": "1", "currency": "USD", "final": True}
    return body


@pytest.mark.parametrize("ended", [0, 50])
async def test_as_much_is_read_however_many_runs_have_ended(ended: int) -> None:
    api, cache = DictionaryApi(), CountingCache()
    api.hold(POLICIES, POLICY)
    cache.put(POLICIES, POLICY)
    for number in range(ended):
        body = an_ended_run()
        body["metadata"] |= {"name": f"ended-{number}", "uid": f"ended-{number}"}
        cache.put(TRAININGS, body)
    working = a_training().stored()
    cache.put(TRAININGS, working)
    keeper = Gatekeeper(
        client=api, cache=cache, on_change=_ignore, on_start=_ignore, now=lambda: NOW
    )
    await keeper.look(Key("studio", "anna"))
    cache.reads = 0
    await keeper.flush()
    assert cache.reads == 1


def _ignore(_: Key) -> None:
    """Nobody is to be looked at."""
