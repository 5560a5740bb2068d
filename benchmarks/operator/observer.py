"""What the operator process costs and tells: CPU, memory, its own metrics.

A module of its own because it looks from outside: nothing here takes part in what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

PORT = 18082
SAMPLE_SECONDS = 0.5
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Observer:
    """One operator process, and what was seen of it since the last `mark`."""

    def __init__(self, process: subprocess.Popen[bytes], session: aiohttp.ClientSession) -> None:
        self.process = process
        self._session = session
        self._outside = psutil.Process(process.pid)
        self.peak_mib = 0.0
        self.worst_lag = 0.0
        self._begun = time.perf_counter()
        self._cpu = 0.0
        self._metrics: Samples = {}

    async def mark(self) -> None:
        """Begin a measurement."""
        self.peak_mib = self.worst_lag = 0.0
        self._begun, self._cpu = time.perf_counter(), self._cpu_now()
        self._metrics = await self.metrics()

    async def costs(self) -> dict[str, float]:
        """What was used since the mark."""
        wall = time.perf_counter() - self._begun
        cpu = self._cpu_now() - self._cpu
        return {
            "wall_s": wall,
            "cpu_s": cpu,
            "cores": cpu / wall,
            "peak_mib": self.peak_mib,
            "worst_loop_lag_ms": 1000 * self.worst_lag,
        }

    async def metrics(self) -> Samples:
        """All samples of /metrics."""
        async with self._session.get(f"http://127.0.0.1:{PORT}/metrics") as response:
            text = await response.text()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def grown(self) -> Samples:
        """How much each sample grew since the mark."""
        now = await self.metrics()
        return {key: value - self._metrics.get(key, 0.0) for key, value in now.items()}

    async def total(self, name: str) -> float:
        """One metric now, summed over its labels."""
        if self.process.poll() is not None:
            raise SystemExit("the operator ended; its log is in build/bench")
        return sum(value for (each, _), value in (await self.metrics()).items() if each == name)

    async def watch(self) -> None:
        """Sample for ever."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, psutil.Error):
                self.peak_mib = max(self.peak_mib, self._outside.memory_info().rss / 2**20)
                lag = await self.total("lora_operator_event_loop_lag_seconds")
                self.worst_lag = max(self.worst_lag, lag)
            await asyncio.sleep(2.0)

    def _cpu_now(self) -> float:
        used = self._outside.cpu_times()
        return float(used.user + used.system)


@contextlib.asynccontextmanager
async def an_operator(kubeconfig: Path, namespace: str, log: Path) -> AsyncIterator[Observer]:
    """An operator process that leads, and is gone at the end of the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [
                *(sys.executable, "-m", "lora_operator", "--host=127.0.0.1"),
                *(f"--metrics-port={PORT}", f"--namespace={namespace}", "--progress-via=direct"),
            ],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    async with aiohttp.ClientSession() as session:
        observer = Observer(process, session)
        watching = asyncio.create_task(observer.watch())
        try:
            while not await _leads(observer):
                if process.poll() is not None:
                    raise SystemExit(f"the operator ended; see {log}")
                await asyncio.sleep(0.1)
            yield observer
        finally:
            watching.cancel()
            process.terminate()
            process.wait(timeout=30)


async def _leads(observer: Observer) -> bool:
    try:
        return await observer.total("lora_operator_leader") == 1
    except aiohttp.ClientError:
        return False


def quantile(samples: Samples, name: str, wanted: float) -> float:
    """A quantile of a histogram, as Prometheus reckons it: straight lines within a bucket."""
    buckets: Counter[float] = Counter()
    for (each, labels), value in samples.items():
        if each == f"{name}_bucket":
            buckets[float(dict(labels)["le"])] += value  # type: ignore[assignment]
    edges = sorted(buckets)
    rank = wanted * buckets[edges[-1]]
    low, below = 0.0, 0.0
    for edge in edges:
        if buckets[edge] >= rank:
            if edge == float("inf"):
                return low
            return low + (edge - low) * (rank - below) / max(1e-9, buckets[edge] - below)
        low, below = edge, buckets[edge]
    return low


def by_verb(samples: Samples) -> dict[str, float]:
    """Requests to the API server by verb and resource."""
    counts: Counter[str] = Counter()
    for (name, labels), value in samples.items():
        told = dict(labels)
        if name == "lora_operator_api_requests_total" and told["resource"] != "leases":
            counts[f"{told['verb']} {told['resource']}"] += int(value)
    return {name: count for name, count in sorted(counts.items()) if count}
