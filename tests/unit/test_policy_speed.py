"""What one run teaches about another: by its work, its recipe and its GPUs."""

from decimal import Decimal
from typing import Any

import pytest
from tests.builders import ATraining, a_training
from tests.policies import a_ledger, a_policy, a_request, a_speed

from lora_api.policy import PriceSettings
from lora_api.policy_ledger import MAX_SPEEDS
from lora_api.status import LoRATrainingStatus, Phase, ProgressStatus, TimelineStatus
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.limits import Request, estimated_cost
from lora_operator.policy.money import price_of_product
from lora_operator.policy.sightings import sighting
from lora_operator.policy.speed import (
    MAX_WORK,
    REMEMBERED_RUNS,
    Kind,
    Measured,
    Speed,
    learned,
    step_work,
)

# In blocks of 64 x 64 pixels.
WORK: list[tuple[str, ATraining, int]] = [
    ("sd15's own 512 pixels", a_training(), 64),
    (
        "1024 pixels are four times as many",
        a_training().with_spec("optimization.resolution", 1024),
        256,
    ),
    ("sdxl's own 1024 pixels", a_training().with_recipe("sdxl"), 256),
    ("a batch of four", a_training().with_spec("optimization.batchSize", 4), 256),
    (
        "batches that are accumulated",
        a_training().with_spec("optimization", {"batchSize": 2, "gradientAccumulationSteps": 3}),
        384,
    ),
    ("a clip of wan's 17 frames", a_training().with_recipe("wan"), 957),
    ("a recipe of somebody's own", a_training().with_recipe("own"), 64),
    ("the smallest picture", a_training().with_spec("optimization.resolution", 64), 1),
    ("part of a block counts as one", a_training().with_spec("optimization.resolution", 72), 2),
]


@pytest.mark.parametrize(("sentence", "training", "work"), WORK, ids=[row[0] for row in WORK])
def test_work_of_a_step(sentence: str, training: ATraining, work: int) -> None:
    spec = training.run().spec
    assert spec is not None
    assert step_work(spec) == work, sentence


PRICED = a_policy(prices={"perGpuHour": "3.6"})


def known(**speed: Any) -> Ledger:  # noqa: ANN401
    return Ledger(month=a_ledger().month, speeds=a_speed(**speed))


def asked(*, steps: int = 1000, step_work: int = 64, gpus: int = 1) -> Request:
    return Request(user="anna", recipe="sd15", gpus=gpus, steps=steps, step_work=step_work)


def test_a_run_of_512_pixels_foretells_one_of_1024_by_its_pixels() -> None:
    # Three runs of 1000 steps at 512 pixels: 600 s of training each, and 200 s around it.
    ledger = known(runs=3, work=3 * 64_000, seconds=1800, other=600)
    assert estimated_cost(asked(), PRICED, ledger) == Decimal("0.8")
    assert estimated_cost(asked(step_work=256), PRICED, ledger) == Decimal("2.6")


def test_each_gpu_of_a_run_is_paid_for_as_long() -> None:
    ledger = known(runs=3, work=3 * 64_000, seconds=1800, other=600)
    assert estimated_cost(asked(gpus=4), PRICED, ledger) == Decimal("3.2")


def test_of_the_gpus_that_were_measured_the_dearest_counts_at_its_own_price() -> None:
    key = "nvidia.com/gpu.product"
    entries = [
        {"key": key, "value": "H100", "perGpuHour": "7.2"},
        {"key": key, "value": "T4", "perGpuHour": "0.36"},
    ]
    policy = a_policy(prices={"byNodeLabel": entries})
    fast = a_speed(work=64_000, seconds=300, product="H100")
    slow = a_speed(work=64_000, seconds=3000, product="T4")
    unsure = a_speed(work=64_000, seconds=300_000, runs=2, product="A100")
    ledger = Ledger(month=a_ledger().month, speeds={**fast, **slow, **unsure})
    assert estimated_cost(asked(), policy, ledger) == Decimal("0.6")
    ledger = Ledger(month=a_ledger().month, speeds=slow)
    assert estimated_cost(asked(), policy, ledger) == Decimal("0.3")


PRICES = PriceSettings.model_validate(
    {
        "perGpuHour": "1",
        "byNodeLabel": [
            {"key": "product", "value": "H100", "perGpuHour": "3"},
            {"key": "product", "value": "T4", "perGpuHour": "0.4"},
            {"key": "pool", "value": "spot", "perGpuHour": "2"},
        ],
    }
)


@pytest.mark.parametrize(
    ("product", "price"), [("H100", "3"), ("T4", "2"), ("A100", "3"), ("", "3")]
)
def test_a_kind_of_gpu_costs_what_its_nodes_may_cost(product: str, price: str) -> None:
    assert price_of_product(PRICES, product) == Decimal(price)


def test_a_recipe_that_was_measured_says_nothing_of_another() -> None:
    request = Request(user="anna", recipe="sdxl", gpus=1, steps=1000)
    assert estimated_cost(request, PRICED, known()) is None


def test_a_completed_run_is_timed_by_its_training_alone() -> None:
    status = LoRATrainingStatus(
        phase=Phase.COMPLETED,
        progress=ProgressStatus(step=1000),
        timeline=TimelineStatus(train_seconds=600, prepare_seconds=120),
        gpu_seconds=800,
    )
    spec = a_training().run().spec
    assert spec is not None
    sight = sighting(spec, status, per_gpu_hour=Decimal(1), product="T4")
    assert sight.measured == Measured(product="T4", work=64_000, train_seconds=600)
    going = status.model_copy(update={"phase": Phase.VALIDATING})
    assert sighting(spec, going, per_gpu_hour=Decimal(1)).measured is None


def test_what_is_long_ago_weighs_less_and_the_sums_stay_bounded() -> None:
    speeds = a_speed(runs=REMEMBERED_RUNS, work=100_000, seconds=100_000, other=20_000)
    slow = Measured(product="", work=1000, train_seconds=5000)
    speeds = dict(learned(speeds, "sd15", slow, steps=1000, gpus=1, gpu_seconds=6000))
    assert speeds == a_speed(runs=101, work=51_000, seconds=55_000, other=11_000)


@pytest.mark.parametrize("work", [0, MAX_WORK])
def test_work_that_can_not_be_is_left_out(work: int) -> None:
    timed = Measured(product="", work=work, train_seconds=5000)
    assert not learned({}, "sd15", timed, steps=1000, gpus=1, gpu_seconds=6000)


def test_only_so_many_kinds_are_remembered() -> None:
    full = {Kind("sd15", f"gpu-{number}"): Speed(runs=1, work=9) for number in range(MAX_SPEEDS)}
    for product, runs in (("gpu-7", 2), ("another", 0)):
        timed = Measured(product=product, work=1000, train_seconds=5000)
        found = learned(full, "sd15", timed, steps=1000, gpus=1, gpu_seconds=6000)
        assert len(found) == MAX_SPEEDS
        assert found.get(Kind("sd15", product), Speed()).runs == runs


def test_a_run_that_would_take_for_ever_has_a_price_that_decimals_hold() -> None:
    policy = a_policy(prices={"perGpuHour": "999999999999"})
    request = asked(steps=1_000_000, step_work=10**11, gpus=16)
    assert estimated_cost(request, policy, known()) is not None
    assert a_request().work == 1000
