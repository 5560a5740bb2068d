"""The operator's own figures: queue, reconciles, API requests, leadership, progress pulls.

A module of its own because these are counted where things happen, while the figures about runs are
read from the cache when somebody asks (run_metrics.py). docs/metrics.md lists both.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FAST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
PHASE_BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)


class Metrics:
    """All counters, gauges and histograms, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leader = Gauge(
            "lora_operator_leader", "1 where this replica holds the Lease.", registry=self.registry
        )
        self.synced = Gauge(
            "lora_operator_synced",
            "1 once the cache holds what existed when this process started.",
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "lora_operator_queue_depth",
            "Runs that wait to be looked at, sleeping ones not counted.",
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "lora_operator_reconcile_seconds",
            "Time to observe, decide, act and write one run.",
            ["outcome"],
            buckets=FAST_BUCKETS,
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "lora_operator_reconcile_errors",
            "Reconciles that failed and are tried again, by the error's reason.",
            ["reason"],
            registry=self.registry,
        )
        self.status_writes = Counter(
            "lora_operator_status_writes", "Status writes that succeeded.", registry=self.registry
        )
        self.unreadable_statuses = Counter(
            "lora_operator_unreadable_statuses",
            "Statuses in words that this version does not know; their runs are left alone.",
            registry=self.registry,
        )
        self.api_requests = Counter(
            "lora_operator_api_requests",
            "Requests to the API server; watches count when they are opened.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.api_request_seconds = Histogram(
            "lora_operator_api_request_seconds",
            "Time until the API server answered, watches left out.",
            ["verb"],
            buckets=FAST_BUCKETS,
            registry=self.registry,
        )
        self.ghosts_evicted = Counter(
            "lora_operator_ghosts_evicted",
            "Objects that were gone from the API server but not from the cache.",
            ["resource"],
            registry=self.registry,
        )
        self.orphans_removed = Counter(
            "lora_operator_orphans_removed",
            "Objects with our labels that belonged to no run and were deleted.",
            ["resource"],
            registry=self.registry,
        )
        self.progress_pulls = Counter(
            "lora_operator_progress_pulls",
            "Progress requests to trainer pods.",
            ["route", "outcome"],
            registry=self.registry,
        )
        self.event_loop_lag_seconds = Gauge(
            "lora_operator_event_loop_lag_seconds",
            "How late the event loop woke a sleeper at the last look.",
            registry=self.registry,
        )
        self.phase_seconds = Histogram(
            "loratraining_phase_duration_seconds",
            "Time that runs spent in a phase; phase total is from creation to the end.",
            ["phase", "recipe"],
            buckets=PHASE_BUCKETS,
            registry=self.registry,
        )
        self.completed = Counter(
            "loratraining_completed", "Runs that completed.", ["recipe"], registry=self.registry
        )
        self.failed = Counter(
            "loratraining_failures",
            "Runs that failed, by the reason in their status.",
            ["reason", "recipe"],
            registry=self.registry,
        )
