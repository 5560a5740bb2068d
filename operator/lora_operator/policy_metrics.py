"""Figures about namespaces that have a policy, read from its status at the moment of a scrape.

A module of its own for the reason that the runs' figures are: a policy that is deleted leaves no
series behind, and a restart sets none to zero.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lora_api.policy import ACTING_POLICY
from lora_operator.cache import Cache
from lora_operator.kube.resources import POLICIES, TRAININGS
from lora_operator.state.keys import Object

_MONEY = {
    "loratraining_policy_spent": ("Spent this month, in the policy's currency.", "amount"),
    "loratraining_policy_budget": ("Budget of the month, in the policy's currency.", "budget"),
}
_COUNTS = {
    "loratraining_policy_gpus_in_use": ("GPUs that runs of the namespace hold.", "gpusInUse"),
    "loratraining_policy_waiting_runs": ("Runs in the namespace's queue.", "waitingCount"),
}


class PolicyCollector(Collector):
    """Turns the cached statuses of policies into gauges."""

    def __init__(self, cache: Cache, *, leads: Callable[[], bool]) -> None:
        """Read from this cache, and tell only while this replica speaks for all."""
        self._cache = cache
        self._leads = leads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All gauges, as of now."""
        if not self._leads():
            return
        policies = {
            body["metadata"]["namespace"]: body
            for body in self._cache.all(POLICIES)
            if body["metadata"]["name"] == ACTING_POLICY
        }
        acting = [(namespace, body.get("status") or {}) for namespace, body in policies.items()]
        for name, (meaning, field) in _MONEY.items():
            family = GaugeMetricFamily(name, meaning, labels=["namespace"])
            for namespace, status in acting:
                if field in status.get("spending", {}):
                    family.add_metric([namespace], float(status["spending"][field]))
            yield family
        for name, (meaning, field) in _COUNTS.items():
            family = GaugeMetricFamily(name, meaning, labels=["namespace"])
            for namespace, status in acting:
                family.add_metric([namespace], float(status.get(field, 0)))
            yield family
        yield from self._alerts(policies)

    def _alerts(self, policies: dict[str, Object]) -> Iterator[GaugeMetricFamily]:
        """Where the policies want to be warned: their share of the budget, and costly runs."""
        share = GaugeMetricFamily(
            "loratraining_policy_alert_ratio",
            "Share of the budget at which the policy warns.",
            labels=["namespace"],
        )
        for namespace, body in policies.items():
            if "monthlyBudget" in body["spec"]:
                percent = body["spec"]["monthlyBudget"].get("alertPercent", 75)
                share.add_metric([namespace], percent / 100)
        yield share
        expensive = GaugeMetricFamily(
            "loratraining_policy_expensive_runs",
            "Runs that are there and have cost more than the policy's maxCostPerTraining.",
            labels=["namespace"],
        )
        limits = {
            namespace: Decimal(body["spec"]["maxCostPerTraining"])
            for namespace, body in policies.items()
            if "maxCostPerTraining" in body["spec"]
        }
        found = self._above(limits)
        for namespace in limits:
            expensive.add_metric([namespace], found[namespace])
        yield expensive

    def _above(self, limits: dict[str, Decimal]) -> Counter[str]:
        """Runs that have cost more than their namespace's limit, by namespace."""
        counted: Counter[str] = Counter()
        for body in self._cache.all(TRAININGS) if limits else ():
            namespace = body["metadata"]["namespace"]
            amount = body.get("status", {}).get("cost", {}).get("amount")
            if amount is not None and namespace in limits and Decimal(amount) > limits[namespace]:
                counted[namespace] += 1
        return counted
