"""What a policy adds to a run: nodes whose GPUs fit, defaults, and the figures it shows."""

from decimal import Decimal

import pytest
from tests.builders import a_training
from tests.policies import NOON, a_ledger, a_policy, seen, waiting, working

from lora_api.policy_ledger import RunState
from lora_api.policy_status import MAX_LISTED
from lora_api.training import LoRATrainingSpec
from lora_operator.policy.defaults import priority_of, with_defaults
from lora_operator.policy.gpu_fit import GpuLabels, fit_gpus
from lora_operator.policy.ledger import admit, observe, settle
from lora_operator.policy.usage import acting_condition, usage

T4 = {"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "15360"}
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100", "nvidia.com/gpu.memory": "81559"}


def test_a_run_goes_to_gpus_with_enough_memory() -> None:
    fit = fit_gpus(needed_mib=38_000, what="flux", nodes=[T4, H100], gpu=GpuLabels())
    assert fit.misfit is None
    assert fit.node_affinity == {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["37999"]}
                    ]
                }
            ]
        }
    }


def test_just_enough_memory_is_enough() -> None:
    fit = fit_gpus(needed_mib=15_360, what="sd15", nodes=[T4], gpu=GpuLabels())
    assert fit.node_affinity is not None


def test_where_no_gpu_fits_it_is_said_which_there_are() -> None:
    nodes = [T4, T4, {"nvidia.com/gpu.memory": "24576"}, {"kubernetes.io/os": "linux"}]
    fit = fit_gpus(needed_mib=38_000, what="flux at 1024 pixels", nodes=nodes, gpu=GpuLabels())
    assert fit.node_affinity is None
    assert fit.misfit == (
        "No GPU of the cluster has the 38000 MiB of memory that flux at 1024 pixels needs. There "
        "are: Tesla-T4 (15360 MiB) on 2 nodes, a GPU without a name (24576 MiB) on 1 node. Add a "
        "node with such a GPU, or create the run again with a lower resolution or a leaner "
        "optimization.memory."
    )


def test_an_inventory_of_many_kinds_is_cut_short() -> None:
    nodes = [{"nvidia.com/gpu.memory": str(size)} for size in range(100, 120)]
    fit = fit_gpus(needed_mib=1000, what="sd15", nodes=nodes, gpu=GpuLabels())
    assert fit.misfit is not None
    assert "and 12 more kinds. Add" in fit.misfit


@pytest.mark.parametrize("memory", ["", "lots", "-5", "1e5", "\u0661\u0662"])
def test_a_label_that_is_no_number_says_nothing(memory: str) -> None:
    nodes = [{"nvidia.com/gpu.memory": memory}, {}]
    fit = fit_gpus(needed_mib=1000, what="sd15", nodes=nodes, gpu=GpuLabels())
    assert (fit.node_affinity, fit.misfit) == (None, None)


def test_other_vendors_label_their_memory_otherwise() -> None:
    gpu = GpuLabels(memory="amd.com/gpu.vram-mib")
    node = {"amd.com/gpu.vram-mib": "196608", "nvidia.com/gpu.memory": "1"}
    assert fit_gpus(needed_mib=90_000, what="wan", nodes=[node], gpu=gpu).misfit is None


def spec_of(**fields: object) -> LoRATrainingSpec:
    body = a_training().without_secret()
    for path, value in fields.items():
        body = body.with_spec(path, value)
    return LoRATrainingSpec.model_validate(body.spec)


DEFAULTS = a_policy(
    defaults={"credentialsSecretName": "shared", "priorityClassName": "low", "ttlSeconds": 600},
    priorityClasses=[{"name": "low", "value": 10}, {"name": "high", "value": 90}],
)


def test_a_run_that_says_nothing_takes_the_policys_defaults() -> None:
    spec = with_defaults(spec_of(), DEFAULTS)
    assert spec.credentials_secret_name == "shared"
    assert spec.priority_class_name == "low"
    assert spec.retention.ttl_seconds == 600


def test_what_a_run_says_itself_stays() -> None:
    given = spec_of(
        credentialsSecretName="own", priorityClassName="high", retention={"ttlSeconds": 0}
    )
    assert with_defaults(given, DEFAULTS) == given


def test_without_defaults_nothing_is_added() -> None:
    assert with_defaults(spec_of(), a_policy()) == spec_of()


@pytest.mark.parametrize(("name", "value"), [(None, 10), ("high", 90), ("unlisted", 0)])
def test_priority_is_the_weight_of_the_class_in_the_policy(name: str | None, value: int) -> None:
    spec = spec_of(priorityClassName=name) if name else spec_of()
    assert priority_of(spec, DEFAULTS) == value


def test_usage_tells_who_used_what_and_who_waits() -> None:
    ledger = observe(a_ledger(), "u1", seen(RunState.COUNTED, gpu_seconds=1000, steps=9))
    ledger = settle(ledger, "u1")
    ledger = observe(ledger, "u2", seen(RunState.RUNNING, gpu_seconds=500))
    ledger = admit(ledger, "u3", seen(RunState.WAITING, user="ben"), Decimal(1))
    status = usage(
        generation=3,
        acting=acting_condition("default", since=NOON),
        policy=a_policy(monthlyBudget={"amount": 2}),
        ledger=ledger,
        queue=[waiting("third", "ben")],
        working=[working("second", "anna", gpus=2)],
    )
    assert status.model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "observedGeneration": 3,
        "conditions": [
            {
                "type": "Acting",
                "status": "True",
                "reason": "Acting",
                "message": "",
                "lastTransitionTime": "2026-11-22T12:00:00Z",
            }
        ],
        "month": "2026-11",
        "nextReset": "2026-12-01T00:00:00Z",
        "trainings": 3,
        "gpusInUse": 2,
        "runningCount": 1,
        "waitingCount": 1,
        "spending": {"amount": "1.5", "budget": "2", "percent": 75},
        "users": [
            {
                "user": "anna",
                "trainings": 2,
                "running": 1,
                "gpus": 2,
                "gpuSeconds": 1500,
                "cost": "1.5",
            },
            {"user": "ben", "trainings": 1, "running": 0, "gpus": 0, "gpuSeconds": 0, "cost": "0"},
        ],
        "running": [{"name": "second", "user": "anna", "gpus": 2}],
        "waiting": [{"name": "third", "user": "ben", "gpus": 1, "position": 1}],
    }


def test_usage_lists_a_hundred_and_counts_all() -> None:
    ledger = a_ledger()
    for number in range(MAX_LISTED + 50):
        ledger = admit(ledger, f"u{number}", seen(RunState.WAITING, user=f"user-{number}"), None)
    status = usage(
        generation=1,
        acting=acting_condition("default", since=NOON),
        policy=a_policy(),
        ledger=ledger,
        queue=[waiting(f"r{number}") for number in range(MAX_LISTED + 50)],
        working=[],
    )
    assert (len(status.users), len(status.waiting)) == (MAX_LISTED, MAX_LISTED)
    assert (status.trainings, status.waiting_count) == (150, 150)


def test_a_policy_of_another_name_is_told_that_it_does_not_act() -> None:
    condition = acting_condition("strict", since=NOON)
    assert (condition.status, condition.reason) == ("False", "NotNamedDefault")
    assert "Only the policy named default acts" in condition.message
