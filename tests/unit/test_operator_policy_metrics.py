"""What a scrape says of a namespace that has a policy."""

from prometheus_client import CollectorRegistry, generate_latest

from lora_operator.cache import Cache
from lora_operator.kube.resources import POLICIES, TRAININGS
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


def a_run(namespace: str, name: str, cost: str | None) -> Object:
    meta = {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}"}
    status = {} if cost is None else {"cost": {"amount": cost}}
    return {"metadata": meta, "spec": {}, "status": status}


def test_runs_that_cost_more_than_one_should_are_counted() -> None:
    policy = a_policy("studio", {}) | {"spec": {"maxCostPerTraining": "2"}}
    cache = a_cache(policy, a_policy("free", {}))
    costs = {"a": None, "b": "1.999999", "c": "2", "d": "2.000001", "e": "10.5"}
    for name, cost in costs.items():
        cache.put(TRAININGS, a_run("studio", name, cost))
        cache.put(TRAININGS, a_run("free", name, cost))
    lines = [line for line in scraped(cache) if "expensive" in line]
    assert lines == ['loratraining_policy_expensive_runs{namespace="studio"} 2.0']


def test_the_share_at_which_to_warn_is_told_beside_the_budget() -> None:
    budget = {"monthlyBudget": {"amount": "100", "alertPercent": 60}}
    lines = scraped(a_cache(a_policy("studio", SPENT) | {"spec": budget}))
    assert 'loratraining_policy_alert_ratio{namespace="studio"} 0.6' in lines


def test_a_policy_that_does_not_act_tells_nothing() -> None:
    assert scraped(a_cache(a_policy("studio", SPENT, name="idle"))) == []


def test_a_standby_tells_nothing() -> None:
    assert scraped(a_cache(a_policy("studio", SPENT)), leads=False) == []
