"""What a scrape says of a namespace that has a policy."""

from prometheus_client import CollectorRegistry, generate_latest

from lora_operator.cache import Cache
from lora_operator.kube.resources import POLICIES
from lora_operator.policy_metrics import PolicyCollector
from lora_operator.state.keys import Object


def a_cache(*bodies: Object) -> Cache:
    cache = Cache()
    for body in bodies:
        cache.put(POLICIES, body)
    return cache


def a_policy(namespace: str, status: Object, name: str = "default") -> Object:
    meta = {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}"}
    return {"metadata": meta, "spec": {}, "status": status}


def scraped(cache: Cache, *, leads: bool = True) -> list[str]:
    registry = CollectorRegistry()
    registry.register(PolicyCollector(cache, leads=lambda: leads))
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


SPENT = {"spending": {"amount": "75.5", "budget": "100"}, "gpusInUse": 4, "waitingCount": 2}


def test_money_gpus_and_the_queue_are_told_by_namespace() -> None:
    assert scraped(a_cache(a_policy("studio", SPENT))) == [
        'loratraining_policy_spent{namespace="studio"} 75.5',
        'loratraining_policy_budget{namespace="studio"} 100.0',
        'loratraining_policy_gpus_in_use{namespace="studio"} 4.0',
        'loratraining_policy_waiting_runs{namespace="studio"} 2.0',
    ]


def test_without_a_budget_there_is_no_series_for_one() -> None:
    lines = scraped(a_cache(a_policy("studio", {"spending": {"amount": "1"}})))
    assert not [line for line in lines if "budget" in line]


def test_a_policy_that_does_not_act_tells_nothing() -> None:
    assert scraped(a_cache(a_policy("studio", SPENT, name="idle"))) == []


def test_a_standby_tells_nothing() -> None:
    assert scraped(a_cache(a_policy("studio", SPENT)), leads=False) == []
