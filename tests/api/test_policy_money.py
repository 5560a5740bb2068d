"""A month's money, from the first warning to the last refusal, by a real operator process.

A pod is said to have its node since an hour ago, or two, so that it has cost as much as the test
says. Its trainer moves on by a step every few seconds: costs are written with progress.
"""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.stage import Stage
from tests.api.test_operator_progress import ADDRESS, Trainer
from tests.builders import APod, a_job, a_pod, a_training, stamp
from tests.results import a_good_result

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_api.policy_ledger import LEDGER_KIND
from lora_api.progress import Stage as TrainerStage
from lora_cluster.light import LightCluster
from lora_operator.kube.resources import EVENTS, LEDGERS, PODS, POLICIES, TRAININGS

pytestmark = pytest.mark.api

STEPS = 100
SECONDS_PER_STEP = 2.0
MERGE = "application/merge-patch+json"
# An hour of a GPU costs 3.60, a second a tenth of a cent.
POLICY: Object = {
    "monthlyBudget": {"amount": "4", "alertPercent": 75},
    "maxCostPerTraining": "2",
    "prices": {"perGpuHour": "3.6"},
}


@pytest.fixture(scope="module")
def api(light_cluster: LightCluster) -> ApiServer:
    return ApiServer(light_cluster.kubeconfig)


@pytest.fixture
def namespace(api: ApiServer) -> str:
    name = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    metadata = {"name": ACTING_POLICY, "namespace": name}
    policy = {"apiVersion": API_VERSION, "kind": POLICY_KIND, "metadata": metadata, "spec": POLICY}
    api.create(POLICIES, policy)
    api.create(LEDGERS, a_ledger_of_two_runs(name))
    return name


def a_ledger_of_two_runs(namespace: str) -> Object:
    """One that the next run makes three of: only then is anybody refused by an estimate."""
    month = f"{datetime.now(UTC):%Y-%m}"
    metadata = {"name": month, "namespace": namespace}
    # Two hours each, and next to nothing of that in steps: as the run that follows.
    speed = {"recipe": "sd15", "runs": 2, "work": 1, "otherSeconds": 14_400}
    spec = {"month": month, "currency": "USD", "speeds": [speed]}
    return {"apiVersion": API_VERSION, "kind": LEDGER_KIND, "metadata": metadata, "spec": spec}


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    server = Trainer()
    server.says(TrainerStage.TRAIN, 0, STEPS)
    yield server
    server.close()


@pytest.fixture
def operator(api: ApiServer, namespace: str) -> Iterator[Operator]:
    process = Operator(
        api.kubeconfig,
        f"--lease-namespace={namespace}",
        f"--namespace={namespace}",
        "--progress-via=direct",
    )
    yield process.start()
    process.kill()


def set_budget(api: ApiServer, namespace: str, amount: str) -> None:
    path = POLICIES.path(namespace, ACTING_POLICY)
    api.request("PATCH", path, {"spec": {"monthlyBudget": {"amount": amount}}}, MERGE)


def begin(api: ApiServer, namespace: str, name: str) -> tuple[Stage, APod]:
    """A run at work."""
    stage = Stage(api, a_training().in_namespace(namespace).named(name).with_spec("user", "anna"))
    stage.apply()
    stage.bind_claim()
    pod = a_pod().named(f"{name}-pod").placed()
    stage.add_pod(pod.running())
    stage.set_pod(pod.running(), podIP=ADDRESS, podIPs=[{"ip": ADDRESS}])
    stage.is_in("Training")
    return stage, pod


def training(trainer: Trainer, look: Callable[[], Any], what: str) -> Any:  # noqa: ANN401
    """What is to be seen once the trainer has gone on for a while."""
    begun = time.monotonic()

    def go_on() -> Any:  # noqa: ANN401
        step = min(STEPS, int((time.monotonic() - begun) / SECONDS_PER_STEP))
        trainer.says(TrainerStage.TRAIN, step, STEPS)
        return look()

    return eventually(go_on, what)


def hold(stage: Stage, pod: APod, *, hours: int) -> None:
    """Have the pod its node for so long already."""
    since = stamp(datetime.now(UTC) - timedelta(hours=hours))
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": since}
    stage.api.patch_status(PODS, stage.namespace, pod.name, {"conditions": [scheduled]})


def end(stage: Stage, pod: APod) -> None:
    """Let the trainer end, having held its node for as long as it was said."""
    stored = stage.api.get(PODS, stage.namespace, pod.name) or {}
    ended = pod.ended(0, a_good_result())
    stage.set_pod(ended)
    stage.api.patch_status(
        PODS, stage.namespace, pod.name, {"conditions": stored["status"]["conditions"]}
    )
    eventually(lambda: "artifact" in stage.status, "the artifact is recorded")
    stage.set_job(a_job().complete())
    stage.is_in("Completed")
    eventually(lambda: stage.status.get("cost", {}).get("final"), "the cost is final")


def refused(api: ApiServer, namespace: str, name: str, reason: str) -> str:
    """Apply a run; what it is told when it is refused for the reason."""
    stage = Stage(api, a_training().in_namespace(namespace).named(name).with_spec("user", "anna"))
    stage.apply()
    stage.is_in("Failed", reason)
    failure = stage.status["failure"]
    assert (failure["reason"], failure["retryable"]) == (reason, False)
    assert not stage.jobs()
    message: str = failure["message"]
    return message


def warnings(api: ApiServer, namespace: str) -> dict[str, str]:
    """Warnings about the policy: sentence by reason."""
    return {
        event["reason"]: event["message"]
        for event in api.list(EVENTS, namespace)
        if event["involvedObject"]["kind"] == POLICY_KIND
    }


def spending(api: ApiServer, namespace: str) -> dict[str, Any]:
    body = api.get(POLICIES, namespace, ACTING_POLICY)
    assert body is not None
    told: dict[str, Any] = body.get("status", {}).get("spending", {})
    return told


def test_a_month_s_money_from_the_first_warning_to_the_last_refusal(
    api: ApiServer, namespace: str, operator: Operator, trainer: Trainer
) -> None:
    first, pod = begin(api, namespace, "first")
    assert "TrainingExpensive" not in first.told()

    hold(first, pod, hours=1)
    training(trainer, lambda: "TrainingExpensive" in first.told(), "its cost is warned of")
    told = training(
        trainer, lambda: warnings(api, namespace).get("BudgetAlert"), "the share is told"
    )
    assert re.fullmatch(
        r"75 % of the monthly budget is reached: 3\.6\d USD of 4\.00 USD are spent\.", told
    )
    eventually(lambda: spending(api, namespace).get("percent", 0) >= 90, "the status tells it")
    spent = Decimal(spending(api, namespace)["amount"])
    assert Decimal("3.6") <= spent < 4
    assert operator.metric("loratraining_policy_budget") == 4
    assert operator.metric("loratraining_policy_alert_ratio") == 0.75
    assert operator.metric("loratraining_policy_expensive_runs") == 1
    eventually(
        lambda: operator.metric("loratraining_policy_spent") >= float(spent), "the metric tells it"
    )
    assert "BudgetExhausted" not in warnings(api, namespace)

    hold(first, pod, hours=2)
    told = training(
        trainer, lambda: warnings(api, namespace).get("BudgetExhausted"), "the end is told"
    )
    assert re.fullmatch(
        r"The monthly budget is spent: 7\.2\d USD of 4\.00 USD\. No further run is started until "
        r"\d{4}-\d\d-01\.",
        told,
    )
    sentence = refused(api, namespace, "second", "BudgetExhausted")
    assert re.fullmatch(
        r"The namespace's monthly budget of 4\.00 USD is spent \(7\.2\d USD so far\)\. The budget "
        r"begins anew at \d{4}-\d\d-01 00:00 UTC\.",
        sentence,
    )
    assert first.status["phase"] == "Training", "what is at work goes on"

    end(first, pod)
    cost = Decimal(first.status["cost"]["amount"])
    assert Decimal("7.2") <= cost < Decimal("7.6")
    # Three runs of a hundred steps have cost about so much each, and a hundred more are asked for.
    set_budget(api, namespace, "10")
    sentence = refused(api, namespace, "third", "EstimateAboveBudget")
    figures = re.match(
        r"The run is estimated to cost (7\.\d\d) USD \(100 steps on 1 GPU\(s\), at the measured "
        r"speed of sd15\), and (2\.\d\d) USD of the monthly budget of 10\.00 USD are left: "
        r"(7\.\d\d) USD are spent, 0\.00 USD are promised to runs under way\.",
        sentence,
    )
    assert figures is not None, sentence
    estimate, left, spent_then = (Decimal(figure) for figure in figures.groups())
    assert Decimal("7.2") <= estimate < Decimal("7.9")
    # Each is rounded to a cent by itself.
    assert abs(left + spent_then - 10) <= Decimal("0.01")

    set_budget(api, namespace, "20")
    fourth, _ = begin(api, namespace, "fourth")
    assert fourth.status["cost"]["final"] is False
    assert api.get(TRAININGS, namespace, "first") is not None
