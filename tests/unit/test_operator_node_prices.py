"""What a GPU-hour costs while nodes come, are labelled, and go."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from tests.dictionary_api import DictionaryApi
from tests.policies import NOON

from lora_api.policy import PriceSettings
from lora_operator import node_prices
from lora_operator.errors import RefusedError
from lora_operator.kube.resources import NODES
from lora_operator.node_prices import FRESH_SECONDS, NodePrices

PRODUCT = "nvidia.com/gpu.product"
PRICES = PriceSettings.model_validate(
    {
        "perGpuHour": "0",
        "byNodeLabel": [
            {"key": PRODUCT, "value": "H100", "perGpuHour": "2.50"},
            {"key": PRODUCT, "value": "T4", "perGpuHour": "0.40"},
        ],
    }
)


class Ground:
    """A cluster whose nodes are labelled when a test says so, and a clock that it moves."""

    def __init__(self) -> None:
        self.api = DictionaryApi()
        self.time = 0.0
        self.prices = NodePrices(self.api, now=self.now, clock=lambda: self.time)

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.time)

    def hold(
        self, name: str, labels: dict[str, str] | None = None, *, minutes_old: float = 60
    ) -> None:
        created = self.now() - timedelta(minutes=minutes_old)
        stamp = created.strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = {"name": name, "labels": labels or {}, "creationTimestamp": stamp}
        self.api.objects[NODES.path(None, name)] = {"metadata": metadata}

    async def price(self, name: str | None) -> Decimal:
        return await self.prices.price(PRICES, name)


async def test_a_new_node_costs_the_most_until_its_labels_come() -> None:
    ground = Ground()
    ground.hold("a", minutes_old=1)
    assert await ground.price("a") == Decimal("2.50")
    ground.hold("a", {PRODUCT: "T4"}, minutes_old=1)
    ground.time = FRESH_SECONDS
    assert await ground.price("a") == Decimal("0.40")


async def test_an_old_node_without_the_label_costs_what_all_others_cost() -> None:
    ground = Ground()
    ground.hold("a")
    assert await ground.price("a") == 0


async def test_a_new_node_with_another_value_of_the_label_costs_what_all_others_cost() -> None:
    ground = Ground()
    ground.hold("a", {PRODUCT: "A100"}, minutes_old=1)
    assert await ground.price("a") == 0


async def test_a_name_that_another_machine_takes_over_costs_what_that_one_does() -> None:
    ground = Ground()
    ground.hold("a", {PRODUCT: "T4"})
    assert await ground.price("a") == Decimal("0.40")
    ground.hold("a", {PRODUCT: "H100"})
    ground.time = FRESH_SECONDS
    assert await ground.price("a") == Decimal("2.50")


async def test_where_nobody_may_read_nodes_or_the_node_is_gone_the_highest_price_counts() -> None:
    ground = Ground()
    assert await ground.price("gone") == Decimal("2.50")
    assert await ground.price(None) == Decimal("2.50")
    ground.hold("a", {PRODUCT: "T4"})
    ground.api.refusals[("GET", "/a")] = RefusedError("forbidden", status=403)
    assert await ground.price("a") == Decimal("2.50")


async def test_a_node_is_read_once_in_five_minutes() -> None:
    ground = Ground()
    ground.hold("a")
    for ground.time in (0.0, FRESH_SECONDS - 1, FRESH_SECONDS):
        await ground.price("a")
    assert len(ground.api.asked) == 2


async def test_only_so_many_nodes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_prices, "MAX_NODES", 2)
    ground = Ground()
    for name in ("a", "b", "c"):
        ground.hold(name)
        await ground.price(name)
    asked = len(ground.api.asked)
    await ground.price("c")
    await ground.price("b")
    assert len(ground.api.asked) == asked
    await ground.price("a")
    assert len(ground.api.asked) == asked + 1


async def test_a_node_says_which_gpus_it_has_as_far_as_anybody_may_know() -> None:
    ground = Ground()
    ground.hold("a", {PRODUCT: "T4"})
    ground.hold("b")
    assert [await ground.prices.product(name, PRODUCT) for name in ("a", "b", "gone", None)] == [
        "T4",
        "",
        "",
        "",
    ]
