"""Figures about the runs, read from the cache at the moment of a scrape.

A module of its own because a gauge that is set by hand outlives its run: reading the cache can't
leave anything behind, and costs nothing while nobody asks.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lora_api.job import BUILT_IN_RECIPES
from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase
from lora_operator.cache import Cache
from lora_operator.kube.resources import TRAININGS, WATCHED
from lora_operator.state.keys import Object

# Each running run costs six time series; more than this is a fleet to be read from the API.
MAX_RUNS_WITH_SERIES = 500

# Sets of their own, because each look at an enum goes over all its members.
_REASONS = frozenset(Reason)
_PHASES = frozenset(Phase)
_WAITING = frozenset({Phase.PENDING, Phase.QUEUED, Phase.STARTING})
_PER_RUN = {
    "loratraining_progress_ratio": ("Share of the optimiser steps done, 0 to 1.", "percent", 0.01),
    "loratraining_step": ("Optimiser steps done.", "step", 1.0),
    "loratraining_steps_expected": ("Optimiser steps in all.", "totalSteps", 1.0),
    "loratraining_loss": ("Smoothed training loss.", "loss", 1.0),
    "loratraining_steps_per_second": ("Training speed.", "stepsPerSecond", 1.0),
    "loratraining_eta_seconds": ("Seconds until the last step.", "etaSeconds", 1.0),
}


def bounded_recipe(recipe: str) -> str:
    """A recipe as a label value: users can write anything into the field."""
    return recipe if recipe in BUILT_IN_RECIPES else "other"


def bounded_reason(reason: str) -> str:
    """A reason as a label value: a trainer of another version may use words that we don't know."""
    return reason if reason in _REASONS else "other"


class RunCollector(Collector):
    """Turns the cached statuses into gauges."""

    def __init__(self, cache: Cache, *, leads: Callable[[], bool] = lambda: True) -> None:
        """Read from this cache.

        Args:
            cache: What is known of the runs.
            leads: Whether this replica speaks for all; a standby that told the same runs again
                would double every sum.
        """
        self._cache = cache
        self._leads = leads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All gauges, as of now."""
        yield self._cached()
        if not self._leads():
            return
        runs = self._cache.all(TRAININGS)
        yield self._by_phase(runs)
        yield self._waiting(runs)
        yield from _running(runs)

    def _by_phase(self, runs: list[Object]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "loratraining_runs", "Runs that exist, by phase.", labels=["phase", "recipe"]
        )
        counts = Counter((_phase(run), _recipe(run)) for run in runs)
        # A phase without runs is told as zero, so that a panel shows 0 and not a gap.
        for recipe in {recipe for _, recipe in counts} or set(BUILT_IN_RECIPES):
            for phase in Phase:
                family.add_metric([phase, recipe], counts.get((phase, recipe), 0))
        return family

    def _waiting(self, runs: list[Object]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "loratraining_waiting_runs",
            "Runs that wait for something before the trainer runs, by reason.",
            labels=["reason"],
        )
        waiting = Counter(_running_reason(run) for run in runs if _phase(run) in _WAITING)
        for reason, count in waiting.items():
            family.add_metric([reason], count)
        return family

    def _cached(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "lora_operator_cached_objects", "Objects in the cache.", labels=["resource"]
        )
        for resource in WATCHED:
            family.add_metric([resource.plural], self._cache.count(resource))
        return family


def _running(runs: list[Object]) -> Iterator[GaugeMetricFamily]:
    shown = [run for run in runs if _has_progress(run)][:MAX_RUNS_WITH_SERIES]
    for name, (text, field, factor) in _PER_RUN.items():
        family = GaugeMetricFamily(name, text, labels=["namespace", "name"])
        for run in shown:
            value = run["status"]["progress"].get(field)
            if value is not None:
                meta = run["metadata"]
                family.add_metric([meta["namespace"], meta["name"]], value * factor)
        yield family


def _has_progress(run: Object) -> bool:
    phase = _phase(run)
    return not Phase(phase).is_terminal and bool(run.get("status", {}).get("progress"))


def _phase(run: Object) -> str:
    phase = run.get("status", {}).get("phase")
    return phase if phase in _PHASES else Phase.PENDING


def _recipe(run: Object) -> str:
    return bounded_recipe(run.get("spec", {}).get("recipe", ""))


def _running_reason(run: Object) -> str:
    for condition in run.get("status", {}).get("conditions", []):
        if condition["type"] == ConditionType.RUNNING:
            return bounded_reason(condition["reason"])
    return Reason.NOT_STARTED
