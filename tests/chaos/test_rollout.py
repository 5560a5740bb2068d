"""The operator's pods are replaced one by one while runs are under way: none of them notices.

The pods that come are of the same image: what another version may find is `test_chart_versions`'
(tests/api).
"""

import time

import pytest
from tests.chaos.ground import PATIENCE_SECONDS, Ground
from tests.chaos.lateness import ENDED
from tests.chaos.test_deletion import DEPLOYMENT
from tests.chaos.verdict import jobs_created

pytestmark = pytest.mark.e2e
RUNS = ("one", "two", "three", "four")


def test_runs_in_flight_go_on_while_the_operators_pods_are_replaced() -> None:
    ground = Ground()
    for name in RUNS:
        ground.apply(name, steps=200)
    ground.kubectl("rollout", "restart", *DEPLOYMENT)
    ground.kubectl("rollout", "status", *DEPLOYMENT, "--timeout=120s")
    deadline = time.monotonic() + PATIENCE_SECONDS
    runs = ground.runs()
    while {run["status"].get("phase") for run in runs.values()} - ENDED:
        assert time.monotonic() < deadline, {n: run["status"] for n, run in runs.items()}
        time.sleep(1)
        runs = ground.runs()
    ends = {name: (run["status"]["phase"], run["status"]["attempts"]) for name, run in runs.items()}
    assert ends == dict.fromkeys(RUNS, ("Completed", 1))
    assert set(jobs_created(ground).values()) == {1}
    assert ground.delete_namespace()
