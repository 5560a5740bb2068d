"""A leader all of whose answers take two seconds keeps its Lease, though another waits for it.

A module of its own because the other bad wires (test_adversity.py) lead without a Lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from tests.api.interception import Forward, Interceptor, Request
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_training

from lora_cluster.light import LightCluster
from lora_operator.kube.resources import LEASES

pytestmark = pytest.mark.api
# Three times as long as a Lease lasts that nobody renews.
LONG = timedelta(seconds=39)


@pytest.fixture
def wire(light_cluster: LightCluster, api: ApiServer, tmp_path: Path) -> Iterator[Interceptor]:
    del api  # logs in, as the proxy wants
    interceptor = Interceptor(light_cluster.kubeconfig, tmp_path)
    yield interceptor
    interceptor.close()


def renewed_at(api: ApiServer, namespace: str) -> datetime:
    lease = api.get(LEASES, namespace, "lora-operator")
    assert lease is not None
    return datetime.fromisoformat(lease["spec"]["renewTime"])


async def slow(_: Request, forward: Forward) -> web.StreamResponse:
    await asyncio.sleep(2)
    return await forward()


def test_it_leads_on_and_brings_a_run_to_its_end(
    api: ApiServer, namespace: str, wire: Interceptor
) -> None:
    where = (f"--lease-namespace={namespace}", f"--namespace={namespace}")
    leader = Operator(wire.kubeconfig, *where, identity="slow").start()
    rival = Operator(api.kubeconfig, *where, identity="quick")
    try:
        eventually(lambda: leader.leads, "it leads")
        rival.start()
        wire.rule = slow
        begun = renewed_at(api, namespace)
        stage = Stage(api, a_training().in_namespace(namespace))
        stage.apply()
        stage.live()
        eventually(lambda: renewed_at(api, namespace) - begun >= LONG, "the Lease is renewed on")
        assert leader.leads
        assert not rival.leads
        assert "beginning anew" not in [line["event"] for line in leader.events()]
    finally:
        leader.kill()
        rival.kill()
