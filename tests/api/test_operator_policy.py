"""A namespace's policy, kept by a real operator process against a real API server."""

import concurrent.futures
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.stage import Stage
from tests.builders import ATraining, a_job, a_pod, a_training
from tests.results import a_good_result

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_cluster.light import LightCluster
from lora_operator.kube.resources import JOBS, LEDGERS, POLICIES, TRAININGS

pytestmark = pytest.mark.api

FIVE = "You've reached your monthly limit of 5 LoRAs. Limit resets on the first of each month."


@pytest.fixture(scope="module")
def api(light_cluster: LightCluster) -> ApiServer:
    return ApiServer(light_cluster.kubeconfig)


@pytest.fixture
def namespace(api: ApiServer) -> str:
    return api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def operators(api: ApiServer, namespace: str) -> Iterator[tuple[Operator, Operator]]:
    """Two replicas that share a Lease, neither of them started."""
    arguments = (f"--lease-namespace={namespace}", f"--namespace={namespace}")
    pair = tuple(Operator(api.kubeconfig, *arguments, identity=name) for name in ("one", "two"))
    yield pair[0], pair[1]
    for operator in pair:
        operator.kill()


Apply = Callable[..., Stage]


@pytest.fixture
def apply(api: ApiServer, namespace: str) -> Apply:
    """Applies a run by name, for a user and with so many GPUs."""

    def _apply(name: str, user: str = "anna", *, gpus: int = 1) -> Stage:
        stage = Stage(api, a_run(namespace, name, user, gpus=gpus))
        stage.apply()
        return stage

    return _apply


def a_run(namespace: str, name: str, user: str = "anna", *, gpus: int = 1) -> ATraining:
    return a_training().in_namespace(namespace).named(name).with_spec("user", user).with_gpus(gpus)


def set_policy(api: ApiServer, namespace: str, **spec: Any) -> None:  # noqa: ANN401
    body = {
        "apiVersion": API_VERSION,
        "kind": POLICY_KIND,
        "metadata": {"name": ACTING_POLICY, "namespace": namespace},
        "spec": spec,
    }
    if api.get(POLICIES, namespace, ACTING_POLICY) is None:
        api.create(POLICIES, body)
        return
    path = POLICIES.path(namespace, ACTING_POLICY)
    api.request("PATCH", path, {"spec": spec}, "application/merge-patch+json")


def the_ledger(api: ApiServer, namespace: str) -> Object:
    ledgers = api.list(LEDGERS, namespace)
    assert len(ledgers) == 1
    spec: Object = ledgers[0]["spec"]
    return spec


def places(api: ApiServer, namespace: str) -> int:
    """Runs that count, by the stored ledger."""
    ledger = the_ledger(api, namespace)
    open_runs = [run for run in ledger["runs"] if run["state"] != "Returned"]
    return len(open_runs) + sum(int(user["trainings"]) for user in ledger["users"])


def complete(stage: Stage) -> None:
    """Play Job controller and kubelet until the run is Completed."""
    stage.bind_claim()
    pod = a_pod().named(f"{stage.name}-pod").placed()
    stage.add_pod(pod.running())
    stage.is_in("Starting", "Running")
    stage.set_pod(pod.ended(0, a_good_result()))
    eventually(lambda: "artifact" in stage.status, "the artifact is recorded")
    stage.set_job(a_job().complete())
    stage.is_in("Completed")


def lose(leader: Operator) -> None:
    """As a node that is lost."""
    leader.kill()


def relieve(leader: Operator) -> None:
    """As a rollout: SIGTERM, and it gives its Lease back."""
    assert leader.stop() == 0
    assert "lease released" in [line["event"] for line in leader.events()]


@pytest.mark.parametrize("end", [lose, relieve])
def test_fifty_at_once_against_a_limit_of_five_with_another_leader_in_the_middle(
    api: ApiServer,
    namespace: str,
    operators: tuple[Operator, Operator],
    end: Callable[[Operator], None],
) -> None:
    one, two = operators
    one.start()
    two.start()
    eventually(lambda: one.leads or two.leads, "one leads")
    leader = one if one.leads else two
    set_policy(api, namespace, monthlyTrainingsPerUser=5)
    manifests = [a_run(namespace, f"race-{number:02}").manifest() for number in range(50)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=50) as clients:
        pending = [clients.submit(api.create, TRAININGS, manifest) for manifest in manifests]
        eventually(lambda: api.list(LEDGERS, namespace), "the first place is taken")
        end(leader)
        for each in pending:
            each.result()

    def settled() -> bool:
        runs = api.list(TRAININGS, namespace)
        failed = [run for run in runs if run.get("status", {}).get("phase") == "Failed"]
        return len(failed) == 45 and len(api.list(JOBS, namespace)) == 5

    eventually(settled, "45 are refused and 5 have their Job")
    for run in api.list(TRAININGS, namespace):
        if run["status"]["phase"] == "Failed":
            failure = run["status"]["failure"]
            assert (failure["reason"], failure["message"]) == ("MonthlyLimitReached", FIVE)
            assert failure["retryable"] is False
    assert places(api, namespace) == 5
    states = [run["state"] for run in the_ledger(api, namespace)["runs"]]
    assert states == ["Running"] * 5


def test_who_finds_no_gpu_waits_with_a_place_and_goes_on_when_one_is_free(
    api: ApiServer, namespace: str, operators: tuple[Operator, Operator], apply: Apply
) -> None:
    operator, _ = operators
    set_policy(api, namespace, maxConcurrentGPUs=1)
    operator.start()
    first = apply("first")
    first.is_in("Pending", "PodPending")
    second = apply("second", "ben", gpus=1)
    second.is_in("Queued", "Queued")
    assert second.status["message"] == "1st of 1; needs 1 GPU; 1 of 1 in use by anna"
    assert not second.jobs()
    complete(first)
    second.is_in("Pending", "PodPending")


def test_a_raised_quota_and_a_deleted_run_let_the_next_go_and_who_waits_may_give_up(
    api: ApiServer, namespace: str, operators: tuple[Operator, Operator], apply: Apply
) -> None:
    operator, _ = operators
    set_policy(api, namespace, maxConcurrentGPUs=1)
    operator.start()
    apply("a").is_in("Pending", "PodPending")
    later = [apply(name, name) for name in ("b", "c", "d")]
    for stage in later:
        stage.is_in("Queued", "Queued")
    set_policy(api, namespace, maxConcurrentGPUs=2)
    eventually(lambda: len(api.list(JOBS, namespace)) == 2, "the raised quota lets one go")
    api.delete(TRAININGS, namespace, "a")
    eventually(
        lambda: [stage.status["phase"] for stage in later].count("Queued") == 1,
        "the deleted run's place is taken",
    )
    last = next(stage for stage in later if stage.status["phase"] == "Queued")
    path = TRAININGS.path(namespace, last.name)
    api.request("PATCH", path, {"spec": {"cancel": {}}}, "application/merge-patch+json")
    last.is_in("Cancelled")
    assert not last.jobs()


def test_a_policy_that_is_taken_away_holds_nobody_back(
    api: ApiServer, namespace: str, operators: tuple[Operator, Operator], apply: Apply
) -> None:
    operator, _ = operators
    set_policy(api, namespace, maxConcurrentTrainings=1)
    operator.start()
    apply("a").is_in("Pending", "PodPending")
    second = apply("b")
    second.is_in("Queued", "Queued")
    api.delete(POLICIES, namespace, ACTING_POLICY)
    second.is_in("Pending", "PodPending")


def test_a_failed_run_gives_its_place_back_and_a_deleted_one_does_not(
    api: ApiServer, namespace: str, operators: tuple[Operator, Operator], apply: Apply
) -> None:
    operator, _ = operators
    set_policy(api, namespace, monthlyTrainingsPerUser=1)
    operator.start()
    first = apply("first")
    first.is_in("Pending", "PodPending")
    api.delete(JOBS, namespace, first.job()["metadata"]["name"])
    first.is_in("Failed", "JobVanished")
    second = apply("second")
    second.is_in("Pending", "PodPending")
    api.delete(TRAININGS, namespace, "second")
    third = apply("third")
    third.is_in("Failed", "MonthlyLimitReached")


def test_a_run_that_ended_is_paid_for_and_summed_up_once(
    api: ApiServer, namespace: str, operators: tuple[Operator, Operator], apply: Apply
) -> None:
    one, two = operators
    set_policy(api, namespace, monthlyTrainingsPerUser=5, prices={"perGpuHour": "3.6"})
    one.start()
    stage = apply("paid")
    stage.is_in("Pending", "PodPending")
    complete(stage)
    eventually(lambda: stage.status.get("cost", {}).get("final"), "the cost is final")
    assert stage.status["cost"]["currency"] == "USD"
    one.kill()
    version = stage.version
    two.start()
    eventually(lambda: two.leads, "the other one leads")
    another = apply("another")
    another.is_in("Pending", "PodPending")
    assert places(api, namespace) == 2
    assert stage.version == version, "the run that ended is not written again"


def test_a_run_without_an_output_gets_its_own_place_and_keeps_it(
    api: ApiServer, namespace: str, operators: tuple[Operator, Operator]
) -> None:
    operator, _ = operators
    set_policy(api, namespace, defaults={"outputPrefix": "s3://models/{user}/"})
    operator.start()
    place = f"s3://models/anna/{namespace}/zorp/"
    run = a_run(namespace, "zorp").with_spec("output", {"tensorboard": True})
    placed = Stage(api, run)
    placed.apply()
    placed.is_in("Pending", "PodPending")
    assert placed.status["outputUri"] == place
    environment = placed.job()["spec"]["template"]["spec"]["containers"][0]["env"]
    (document,) = [each["value"] for each in environment if each["name"] == "LORA_JOB"]
    assert json.loads(document)["output"] == {"uri": place, "tensorboard": True}
    set_policy(api, namespace, defaults={"outputPrefix": None})
    homeless = Stage(api, run.named("homeless"))
    homeless.apply()
    homeless.is_in("Failed", "InvalidSpec")
    assert "spec.output.uri is not given" in homeless.status["message"]
    assert not homeless.jobs()
    assert placed.status["outputUri"] == place


def test_the_policy_tells_who_runs_who_waits_and_that_another_one_does_not_act(
    api: ApiServer, namespace: str, operators: tuple[Operator, Operator], apply: Apply
) -> None:
    operator, _ = operators
    set_policy(api, namespace, maxConcurrentGPUs=1)
    idle = {
        "apiVersion": API_VERSION,
        "kind": POLICY_KIND,
        "metadata": {"name": "idle", "namespace": namespace},
        "spec": {},
    }
    api.create(POLICIES, idle)
    operator.start()
    apply("first").is_in("Pending", "PodPending")
    apply("second", "ben").is_in("Queued", "Queued")

    def told(name: str) -> Object:
        body = api.get(POLICIES, namespace, name)
        assert body is not None
        status: Object = body.get("status", {})
        return status

    status = eventually(lambda: told(ACTING_POLICY), "the status is written")
    assert status["running"] == [{"name": "first", "user": "anna", "gpus": 1}]
    assert status["waiting"] == [{"name": "second", "user": "ben", "gpus": 1, "position": 1}]
    assert (status["gpusInUse"], status["trainings"]) == (1, 2)
    conditions = eventually(lambda: told("idle").get("conditions"), "the other one is told")
    assert (conditions[0]["type"], conditions[0]["status"]) == ("Acting", "False")


def test_a_run_of_a_lower_class_makes_room_and_goes_on_later_as_often_as_it_takes(
    api: ApiServer, namespace: str, operators: tuple[Operator, Operator], apply: Apply
) -> None:
    operator, _ = operators
    set_policy(
        api,
        namespace,
        maxConcurrentGPUs=1,
        queue={"preemption": "LowerPriority"},
        priorityClasses=[{"name": "high", "value": 9}],
    )
    operator.start()
    low = apply("low")
    low.is_in("Pending", "PodPending")
    for name in ("urgent", "as-urgent"):
        urgent = Stage(api, a_run(namespace, name, "ben").with_spec("priorityClassName", "high"))
        urgent.apply()
        low.is_in("Queued", "Queued")
        assert low.job()["spec"]["suspend"] is True
        urgent.is_in("Pending", "PodPending")
        api.delete(TRAININGS, namespace, name)
        low.is_in("Pending", "PodPending")
        assert low.job()["spec"]["suspend"] is False
