"""Figures about namespaces that have a policy, read from its status at the moment of a scrape.

A module of its own for the reason that the runs' figures are: a policy that is deleted leaves no
series behind, and a restart sets none to zero.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lora_api.policy import ACTING_POLICY
from lora_operator.cache import Cache
from lora_operator.kube.resources import POLICIES

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
        acting = [
            (body["metadata"]["namespace"], body.get("status") or {})
            for body in self._cache.all(POLICIES)
            if body["metadata"]["name"] == ACTING_POLICY
        ]
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
