"""The operator under a crowd: runs applied at once, thousands that train, thousands that rest.

The control plane is real (etcd, API server, controllers, scheduler); KWOK plays the kubelets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from benchmarks.operator.crowd import (
    POD_CIDR,
    STEPS,
    Trainers,
    all_at_once,
    manifest,
    set_the_scene,
    write_stages,
)
from benchmarks.operator.observer import Observer, an_operator, by_verb, quantile
from benchmarks.operator.report import plot, table

from lora_cluster.light import LightCluster, light_cluster
from lora_operator.builders.job import build_job
from lora_operator.builders.workspace import build_workspace
from lora_operator.kube.client import KubeClient
from lora_operator.kube.credentials import Connection, connect
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS, Resource
from lora_operator.state.reading import read_run

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "bench"
POLL_SECONDS = 0.25
WARM_UP_RUNS = 21
LED_FOR_SECONDS = 8
# Where the controller manager's own provisioner makes volumes, and leaves them.
VOLUMES = Path("/tmp/hostpath_pv")  # noqa: S108 - its path, not ours
Object = dict[str, Any]


class Bench:
    """The measurements, in the order in which they are made."""

    def __init__(
        self, cluster: LightCluster, connection: Connection, api: aiohttp.ClientSession
    ) -> None:
        self._cluster = cluster
        self._connection = connection
        self._api = api
        self.client = KubeClient(session=api, server=connection.server)

    async def request(self, verb: str, path: str, body: Object | None = None) -> Object:
        """Anything, as administrator."""
        kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
        async with self._api.request(
            verb, self._connection.server + path, json=body, headers={"Content-Type": kind}
        ) as response:
            answer: Object = await response.json()
            if response.status >= 400:
                raise SystemExit(f"{verb} {path}: {answer}")
            return answer

    async def count(self, resource: Resource, namespace: str) -> int:
        """How many there are, for the price of one."""
        page = await self.request("GET", resource.path(namespace) + "?limit=1")
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))

    async def until_exist(self, resource: Resource, namespace: str, count: int) -> float:
        """When there are so many."""

        async def are_there() -> bool:
            return await self.count(resource, namespace) >= count

        await until(are_there)
        return time.perf_counter()

    async def burst(self, runs: int) -> Object:
        """Apply runs at once, and let them end."""
        namespace = await self.new_namespace(f"burst-{runs}")
        log = OUT / "operator-burst.log"
        async with an_operator(self._cluster.kubeconfig, namespace, log) as seen:
            # A run that is as old as the lead is read once more: true of no run but the first.
            await asyncio.sleep(LED_FOR_SECONDS)
            await seen.mark()
            begun = time.perf_counter()
            jobs = asyncio.create_task(self.until_exist(JOBS, namespace, runs))
            await all_at_once(runs, lambda n: self._apply(namespace, n))
            applied = time.perf_counter() - begun
            all_jobs = await jobs - begun

            async def have_completed() -> bool:
                return await seen.total("loratraining_completed_total") >= runs

            await until(have_completed, every_seconds=2)
            completed = time.perf_counter() - begun
            costs, grown = await seen.costs(), await seen.grown()
        phases = {run["status"]["phase"] for run in await self.every(TRAININGS, namespace)}
        if phases != {"Completed"}:
            raise SystemExit(f"not all runs completed: {phases}")
        calls = {name: count / runs for name, count in by_verb(grown).items()}
        return {
            "runs": runs,
            "applied_s": applied,
            "all_jobs_s": all_jobs,
            "all_completed_s": completed,
            "reconcile_p50_ms": 1000 * quantile(grown, "lora_operator_reconcile_seconds", 0.5),
            "reconcile_p99_ms": 1000 * quantile(grown, "lora_operator_reconcile_seconds", 0.99),
            "calls_per_run": calls,
            "status_patches_per_run": calls["patch loratrainings"],
            **costs,
        }

    async def floor(self, runs: int, patches: int) -> Object:
        """The same writes by a plain client: runs, claims and Jobs, then so many status patches.

        The patches come last, though the operator's first ones come before its last Job: so the
        floor of "all Jobs exist" is as low as it can be.
        """
        namespace = await self.new_namespace(f"floor-{runs}")
        begun = time.perf_counter()

        async def create(number: int) -> None:
            run = read_run(await self._apply(namespace, number))
            if run.spec is None:
                raise SystemExit(run.spec_fault)
            await self.client.create(CLAIMS, namespace, build_workspace(run, run.spec))
            await self.client.create(JOBS, namespace, build_job(run, run.spec, default_image="x:1"))

        async def patch(number: int) -> None:
            body = {"status": {"message": f"number {number // runs}"}}
            await self.client.patch_status(TRAININGS, namespace, f"r{number % runs}", body)

        await all_at_once(runs, create)
        all_jobs = time.perf_counter() - begun
        await all_at_once(runs * patches, patch)
        written = time.perf_counter() - begun
        await self.quiet(namespace, "Succeeded")
        return {"all_jobs_s": all_jobs, "all_written_s": written}

    async def quiet(self, namespace: str, phase: str) -> None:
        """Wait until all pods have come to a phase."""

        async def are_all() -> bool:
            return {pod["status"]["phase"] for pod in await self.every(PODS, namespace)} == {phase}

        await until(are_all, every_seconds=2)

    async def steady(self, runs: int, seconds: float, training_seconds: float) -> Object:
        """Thousands that train; then nothing moves; then another operator takes over."""
        found: Object = {"runs": runs, "training_seconds": training_seconds}
        await self.new_namespace("steady")
        trainers = Trainers(seconds=training_seconds)
        async with trainers.serve():
            log = OUT / "operator-steady.log"
            async with an_operator(self._cluster.kubeconfig, "steady", log) as seen:
                await all_at_once(runs, lambda n: self._apply("steady", n))
                await self.quiet("steady", "Running")

                async def have_progress() -> bool:
                    return await self._with_progress() == runs

                await until(have_progress, every_seconds=5)
                found["moving"] = await self._watch(seen, trainers, seconds)
                trainers.moves = False
                await asyncio.sleep(45)  # what had moved before is written within this time
                found["resting"] = await self._watch(seen, trainers, seconds)
            log = OUT / "operator-again.log"
            begun = time.perf_counter()
            async with an_operator(self._cluster.kubeconfig, "steady", log) as seen:
                found["start_to_leading_s"] = time.perf_counter() - begun
                await asyncio.sleep(30)
                calls = by_verb(await seen.metrics())
                found["start_writes"] = {
                    name: count
                    for name, count in calls.items()
                    if name.split()[0] in {"create", "patch", "update", "delete"}
                }
                found["start_cost"] = await seen.costs()
        return found

    async def _watch(self, seen: Observer, trainers: Trainers, seconds: float) -> Object:
        await seen.mark()
        asked = trainers.asked
        stale: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await asyncio.sleep(seconds / 4)
            if trainers.moves:
                stale += await self._staleness(trainers)
        costs, grown = await seen.costs(), await seen.grown()
        patches = by_verb(grown).get("patch loratrainings", 0)
        return {
            **costs,
            "asked_per_s": (trainers.asked - asked) / costs["wall_s"],
            "status_patches_per_s": patches / costs["wall_s"],
            "writes": {
                k: v for k, v in by_verb(grown).items() if k.split()[0] in {"create", "patch"}
            },
            **(_spread(stale) if stale else {}),
        }

    async def _staleness(self, trainers: Trainers) -> list[float]:
        """Seconds for which each status has lacked a percent that its trainer could tell."""
        addresses = {
            pod["metadata"]["labels"]["loratraining.dev/run"]: pod["status"]["podIP"]
            for pod in await self.every(PODS, "steady")
        }
        now = time.time()
        found = []
        for run in await self.every(TRAININGS, "steady"):
            told = run["status"].get("progress", {}).get("percent", -1)
            address = addresses[run["metadata"]["name"]]
            late = 0.0
            # The moment at which the next percent began, found by looking back.
            while trainers.step_of(address, now - late) * 100 // STEPS > told and late < 120:
                late += 0.5
            found.append(late)
        return found

    async def _with_progress(self) -> int:
        runs = await self.every(TRAININGS, "steady")
        return sum("progress" in run.get("status", {}) for run in runs)

    async def every(self, resource: Resource, namespace: str) -> list[Object]:
        """All of a kind, page by page."""
        found: list[Object] = []
        token = ""
        while True:
            path = f"{resource.path(namespace)}?limit=500&continue={token}"
            page = await self.request("GET", path)
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    async def new_namespace(self, name: str) -> str:
        """Make a namespace in which pods are admitted."""
        await self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts"

        async def is_usable() -> bool:
            return bool((await self.request("GET", account))["items"])

        await until(is_usable)
        return name

    async def _apply(self, namespace: str, number: int) -> Object:
        return await self.client.create(TRAININGS, namespace, manifest(namespace, f"r{number}"))


async def until(holds: Callable[[], Awaitable[bool]], every_seconds: float = POLL_SECONDS) -> None:
    """Ask until it is so."""
    while not await holds():  # noqa: ASYNC110 - what is waited for lies in other processes
        await asyncio.sleep(every_seconds)


def _spread(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {
        "stale_p50_s": cuts[49],
        "stale_p99_s": cuts[98],
        "stale_max_s": max(values),
        "fresh_within_5s": sum(value <= 5 for value in values) / len(values),
    }


async def measure(cluster: LightCluster, given: argparse.Namespace) -> Object:
    """All figures."""
    connection = connect()
    found: Object = {"load_average_before": os.getloadavg()[0], "bursts": []}
    async with connection.session() as api:
        bench = Bench(cluster, connection, api)
        await set_the_scene(bench.request)
        # Controllers that have just started, connections that are opened: not what is measured.
        await bench.floor(WARM_UP_RUNS, 1)
        for runs in given.runs:
            burst = await bench.burst(runs)
            patches = math.ceil(burst["status_patches_per_run"])
            burst["floor"] = floor = await bench.floor(runs, patches)
            burst["rate_to_floor"] = floor["all_jobs_s"] / burst["all_jobs_s"]
            found["bursts"].append(burst)
            print(table(burst), flush=True)
        if given.steady:
            steady = await bench.steady(given.steady, given.seconds, given.training_seconds)
            found["steady"] = steady
            print(json.dumps(steady, indent=2))
    return found


def main() -> None:
    """Start the control plane, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--steady", type=int, default=0, help="runs that train side by side")
    parser.add_argument("--seconds", type=float, default=60, help="length of a steady look")
    parser.add_argument("--training-seconds", type=float, default=3600)
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    volumes_are_ours = not VOLUMES.exists()
    with light_cluster() as cluster, tempfile.TemporaryDirectory() as folder:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        for arguments in (
            ["apply", "-f", str(ROOT / "crds")],
            ["wait", "--for=condition=Established", "crd/loratrainings.loratraining.dev"],
        ):
            subprocess.run(
                [cluster.binaries / "kubectl", *arguments], check=True, capture_output=True
            )
        cluster.start_fake_nodes(stages=write_stages(Path(folder)), pod_cidr=POD_CIDR)
        found = asyncio.run(measure(cluster, given))
    if volumes_are_ours:
        shutil.rmtree(VOLUMES, ignore_errors=True)
    (OUT / "operator.json").write_text(json.dumps(found, indent=2))
    if found["bursts"]:
        plot(found["bursts"], OUT / "operator.png")


if __name__ == "__main__":
    main()
