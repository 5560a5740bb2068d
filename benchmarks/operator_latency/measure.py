"""Apply-to-Job latency at idle, memory and idle writes of the operator, beside a plain client."""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from lora_cluster.light import LightCluster, light_cluster
from lora_operator.builders.job import build_job
from lora_operator.builders.workspace import build_workspace
from lora_operator.kube.client import KubeClient
from lora_operator.kube.credentials import connect
from lora_operator.kube.resources import CLAIMS, JOBS, TRAININGS
from lora_operator.labels import job_name
from lora_operator.state.reading import read_run

ROOT = Path(__file__).parents[2]
PORT = 18081
NAMESPACE = "default"
PAUSE_SECONDS = 0.2
SPEC = {
    "recipe": "sd15",
    "baseModel": {"uri": "s3://bases/small/"},
    "dataset": {"uri": "s3://datasets/anna/"},
    "output": {"uri": "s3://models/anna/"},
    "credentialsSecretName": "s3",
}


class JobWatch:
    """Notes when each Job was first seen by a watch."""

    def __init__(self) -> None:
        self._seen: dict[str, asyncio.Future[float]] = {}

    def expect(self, name: str) -> asyncio.Future[float]:
        """A future of the moment at which the Job of this name is seen."""
        return self._seen.setdefault(name, asyncio.get_running_loop().create_future())

    async def run(self, session: aiohttp.ClientSession, server: str) -> None:
        """Watch until cancelled."""
        url = f"{server}{JOBS.path(NAMESPACE)}?watch=true"
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as response:
            async for line in response.content:
                now = time.perf_counter()
                event = json.loads(line)
                if event["type"] == "ADDED":
                    seen = self.expect(event["object"]["metadata"]["name"])
                    if not seen.done():
                        seen.set_result(now)


def manifest(name: str) -> dict[str, Any]:
    """A run to apply."""
    return {
        "apiVersion": TRAININGS.api_version,
        "kind": "LoRATraining",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": SPEC,
    }


async def time_floor(client: KubeClient, watch: JobWatch, name: str) -> float:
    """Seconds from the first request until the Job is seen, without an operator."""
    seen = watch.expect(job_name(name))
    begun = time.perf_counter()
    body = await client.create(TRAININGS, NAMESPACE, manifest(name))
    run = read_run(body)
    if run.spec is None:
        raise SystemExit(run.spec_fault)
    await client.create(CLAIMS, NAMESPACE, build_workspace(run, run.spec))
    await client.create(JOBS, NAMESPACE, build_job(run, run.spec, default_image="x:1"))
    return await seen - begun


async def time_operator(client: KubeClient, watch: JobWatch, name: str) -> float:
    """Seconds from applying the run until the operator's Job is seen."""
    seen = watch.expect(job_name(name))
    begun = time.perf_counter()
    await client.create(TRAININGS, NAMESPACE, manifest(name))
    return await asyncio.wait_for(seen, timeout=60) - begun


async def measure(cluster: LightCluster, runs: int, idle_seconds: float) -> dict[str, Any]:
    """All figures."""
    connection = connect()
    async with connection.session() as session:
        client = KubeClient(session=session, server=connection.server)
        watch = JobWatch()
        watching = asyncio.create_task(watch.run(session, connection.server))
        floor = [await _paused(time_floor(client, watch, f"floor-{n}")) for n in range(runs)]
        begun = time.perf_counter()
        operator = start_operator(cluster)
        try:
            await until_leading(operator)
            started_after = time.perf_counter() - begun
            memory_at_start = resident_mib(operator.pid)
            taken = [await _paused(time_operator(client, watch, f"op-{n}")) for n in range(runs)]
            await asyncio.sleep(2)
            mark = len(cluster.audit_log.read_text().splitlines())
            await asyncio.sleep(idle_seconds)
            writes = writes_since(cluster.audit_log, mark)
            memory_after_runs = resident_mib(operator.pid)
        finally:
            operator.terminate()
            operator.wait(timeout=30)
            watching.cancel()
    return {
        "runs": runs,
        "floor_ms": summary(floor),
        "operator_ms": summary(taken),
        "ratio_of_medians": statistics.median(taken) / statistics.median(floor),
        "start_to_leading_s": started_after,
        "memory_after_start_mib": memory_at_start,
        "memory_after_runs_mib": memory_after_runs,
        "idle_seconds": idle_seconds,
        "idle_writes": writes,
        "load_average": os.getloadavg()[0],
    }


async def _paused(measured: Any) -> float:  # noqa: ANN401 - any coroutine of seconds
    seconds: float = await measured
    await asyncio.sleep(PAUSE_SECONDS)
    return seconds


def start_operator(cluster: LightCluster) -> subprocess.Popen[bytes]:
    """The operator as a process, logging beside the figures."""
    log = ROOT / "build" / "bench" / "operator_latency.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lora_operator", f"--metrics-port={PORT}", "--host=127.0.0.1"],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


async def until_leading(operator: subprocess.Popen[bytes]) -> None:
    """Wait until the operator holds the Lease."""
    async with aiohttp.ClientSession() as session:
        while operator.poll() is None:
            try:
                async with session.get(f"http://127.0.0.1:{PORT}/metrics") as response:
                    if "lora_operator_leader 1.0" in await response.text():
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)
    raise SystemExit("the operator ended; see build/bench/operator_latency.log")


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no VmRSS")


def writes_since(audit_log: Path, mark: int) -> dict[str, int]:
    """The operator's writes by verb and resource, from a line of the audit log on."""
    counts: Counter[str] = Counter()
    for line in audit_log.read_text().splitlines()[mark:]:
        entry = json.loads(line)
        ours = entry.get("userAgent", "").startswith("lora-operator")
        if ours and entry["verb"] not in {"get", "list", "watch"}:
            counts[f"{entry['verb']} {entry['objectRef']['resource']}"] += 1
    return dict(counts)


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, 90th percentile and worst, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=10)
    return {
        "median": 1000 * statistics.median(seconds),
        "p90": 1000 * cuts[8],
        "max": 1000 * max(seconds),
    }


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(f"{'':<10} {'median':>9} {'p90':>9} {'max':>9}   (ms, {found['runs']} runs)")
    for name in ("floor", "operator"):
        row = found[f"{name}_ms"]
        print(f"{name:<10} {row['median']:9.1f} {row['p90']:9.1f} {row['max']:9.1f}")
    print(f"ratio of medians         {found['ratio_of_medians']:.2f}")
    print(f"start to leading         {found['start_to_leading_s']:.2f} s")
    print(f"memory after start       {found['memory_after_start_mib']:.0f} MiB")
    print(f"memory after the runs    {found['memory_after_runs_mib']:.0f} MiB")
    print(f"writes in {found['idle_seconds']:.0f} s idle      {found['idle_writes']}")
    print(f"load average             {found['load_average']:.1f}")


def main() -> None:
    """Start a light cluster, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--idle-seconds", type=float, default=60)
    given = parser.parse_args()
    with light_cluster() as cluster:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        kubectl = cluster.binaries / "kubectl"
        for arguments in (
            ["apply", "-f", str(ROOT / "crds")],
            ["wait", "--for=condition=Established", "crd/loratrainings.loratraining.dev"],
        ):
            subprocess.run([kubectl, *arguments], check=True, capture_output=True)
        found = asyncio.run(measure(cluster, given.runs, given.idle_seconds))
    show(found)
    (ROOT / "build" / "bench" / "operator_latency.json").write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
