"""How long a GPU idles between two runs of a queue: from what makes room to the next run's Job.

    python -m benchmarks.operator.wake --times 20 --waiting 200

A module of its own because the rest measures runs that nothing holds back. API server, etcd and
controllers are real; nobody plays scheduler or kubelet but this program, which ends one pod.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_api.status import ArtifactStatus
from lora_api.training import KIND
from lora_cluster.light import LightCluster, light_cluster
from lora_operator.kube.client import KubeClient
from lora_operator.kube.credentials import Connection, connect
from lora_operator.kube.resources import JOBS, PODS, POLICIES, TRAININGS
from lora_operator.labels import RUN_LABEL, TRAINER_CONTAINER

ROOT = Path(__file__).parents[2]
NAMESPACE = "default"
AT_WORK = 4
PORT = 18_600
PATIENCE_SECONDS = 120.0
Object = dict[str, Any]


class Bench:
    """One namespace with a policy, runs at work, and runs that wait."""

    def __init__(self, client: KubeClient, session: aiohttp.ClientSession, server: str) -> None:
        self._client = client
        self._session = session
        self._server = server
        self._jobs: dict[str, float] = {}
        self._complete: dict[str, float] = {}
        self._news = asyncio.Event()
        self._gpus = AT_WORK
        self._over: set[str] = set()

    async def watch(self) -> None:
        """Note when each Job was first heard of, and when it was complete, until cancelled."""
        url = f"{self._server}{JOBS.path(NAMESPACE)}?watch=true"
        async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
            async for line in answer.content:
                event = json.loads(line)
                name = event["object"]["metadata"]["name"]
                conditions = event["object"].get("status", {}).get("conditions", [])
                if event["type"] == "ADDED":
                    self._jobs.setdefault(name, time.perf_counter())
                if any(condition["type"] == "Complete" for condition in conditions):
                    self._complete.setdefault(name, time.perf_counter())
                self._news.set()

    async def set_quota(self, gpus: int) -> None:
        """Have the policy allow so many GPUs."""
        self._gpus = gpus
        patch = {"spec": {"maxConcurrentGPUs": gpus}}
        await self._client.patch(POLICIES, NAMESPACE, ACTING_POLICY, patch)

    async def fill(self, waiting: int) -> None:
        """Make the policy, and runs until so many wait."""
        policy = {
            **{"apiVersion": API_VERSION, "kind": POLICY_KIND},
            "metadata": {"name": ACTING_POLICY, "namespace": NAMESPACE},
            "spec": {"maxConcurrentGPUs": AT_WORK},
        }
        await self._client.create(POLICIES, NAMESPACE, policy)
        for number in range(AT_WORK + waiting):
            await self._client.create(TRAININGS, NAMESPACE, a_run(f"run-{number:05}"))
        await self._until(lambda: len(self._jobs) == AT_WORK)
        for _ in range(int(PATIENCE_SECONDS)):
            runs = await self._client.list_objects(TRAININGS, NAMESPACE, params={})
            phases = [run.get("status", {}).get("phase") for run in runs]
            if phases.count("Queued") == waiting:
                return
            await asyncio.sleep(1)
        raise SystemExit(f"not all of {waiting} runs are queued")

    async def time(self, make_room: MakeRoom) -> float:
        """Seconds from the room until another Job is heard of."""
        known = len(self._jobs)
        begun = await make_room(self)
        await self._until(lambda: len(self._jobs) > known)
        return max(0.0, max(self._jobs.values()) - begun)

    async def a_pod(self) -> Object:
        """A pod of a run at work that was not chosen before."""
        while True:
            for pod in await self._client.list_objects(PODS, NAMESPACE, params={}):
                name = pod["metadata"]["labels"][RUN_LABEL]
                is_going = "deletionTimestamp" in pod["metadata"]
                if pod["status"]["phase"] == "Pending" and not is_going and name not in self._over:
                    self._over.add(name)
                    return pod
            await asyncio.sleep(0.05)

    async def raise_quota(self) -> float:
        """One GPU more; room is made when the API server has taken the policy."""
        await self.set_quota(self._gpus + 1)
        return time.perf_counter()

    async def finish(self) -> float:
        """A trainer ends well; room is made when its Job is complete.

        The Job controller gathers the ends of pods for a second before it says so.
        """
        pod = await self.a_pod()
        ended = {"exitCode": 0, "reason": "Completed", "message": a_result()}
        container = {
            **{"name": TRAINER_CONTAINER, "image": "x:1", "imageID": "", "ready": False},
            **{"restartCount": 0, "state": {"terminated": ended}},
        }
        status = {"phase": "Succeeded", "containerStatuses": [container]}
        await self._client.patch_status(
            PODS, NAMESPACE, pod["metadata"]["name"], {"status": status}
        )
        job = pod["metadata"]["ownerReferences"][0]["name"]
        await self._until(lambda: job in self._complete)
        return self._complete[job]

    async def cancel(self) -> float:
        """A user gives up a run at work; its pod has still to go."""
        await self._client.patch(
            TRAININGS, NAMESPACE, await self._at_work(), {"spec": {"cancel": {}}}
        )
        return time.perf_counter()

    async def delete(self) -> float:
        """A user deletes a run at work."""
        name = await self._at_work()
        run = await self._client.get(TRAININGS, NAMESPACE, name)
        uid = run["metadata"]["uid"]
        await self._client.delete(TRAININGS, NAMESPACE, name, uid=uid, propagation="Background")
        return time.perf_counter()

    async def _at_work(self) -> str:
        name: str = (await self.a_pod())["metadata"]["labels"][RUN_LABEL]
        return name

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_so():
                self._news.clear()
                await self._news.wait()


MakeRoom = Callable[[Bench], Awaitable[float]]
"""Makes room and returns the moment at which it was made."""
ROOM: dict[str, MakeRoom] = {
    "a raised quota": Bench.raise_quota,
    "a finished run": Bench.finish,
    "a cancelled run": Bench.cancel,
    "a deleted run": Bench.delete,
}


def a_run(name: str) -> Object:
    """A run to apply."""
    return {
        **{"apiVersion": API_VERSION, "kind": KIND},
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "user": f"user-{name[-1]}",
            "recipe": "sd15",
            "baseModel": {"uri": "s3://bases/small/"},
            "dataset": {"uri": "s3://datasets/anna/"},
            "output": {"uri": f"s3://models/{name}/"},
            "workspace": {"type": "Ephemeral"},
        },
    }


def a_result() -> str:
    """What a trainer leaves that has stored its LoRA."""
    artifact = ArtifactStatus(
        uri="s3://models/x.safetensors", digest=f"sha256:{'0' * 64}", size_bytes=1, format="kohya"
    )
    result = Result(
        outcome=Outcome.SUCCEEDED,
        reason=Reason.COMPLETED,
        message="Trained, checked and stored.",
        retryable=False,
        artifact=artifact,
    )
    return result.to_termination_message().decode()


@contextmanager
def an_operator(cluster: LightCluster) -> Iterator[None]:
    """The operator as a process, ready."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lora_operator", "--no-leader-elect", "--host=127.0.0.1"),
            f"--metrics-port={PORT}",
        ],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5)
                break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


async def measure(connection: Connection, *, times: int, waiting: int) -> None:
    """Print a line for each kind of room that is made."""
    async with connection.session() as session:
        client = KubeClient(session=session, server=connection.server)
        bench = Bench(client, session, connection.server)
        watching = asyncio.create_task(bench.watch())
        await bench.fill(waiting)
        for what, make_room in ROOM.items():
            taken = [1000 * await bench.time(make_room) for _ in range(times)]
            cuts = statistics.quantiles(taken, n=10)
            print(
                f"{what:<16} median {statistics.median(taken):6.0f} ms, p90 {cuts[8]:6.0f} ms, "
                f"at most {max(taken):6.0f} ms"
            )
        watching.cancel()


def main() -> None:
    """Start a control plane, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="of each kind of room")
    parser.add_argument("--waiting", type=int, default=200, help="runs that wait")
    given = parser.parse_args()
    if given.waiting <= len(ROOM) * given.times:
        raise SystemExit("more runs have to wait than are let go")
    with light_cluster(controller_manager=True) as cluster:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        kubectl = [str(cluster.binaries / "kubectl")]
        for arguments in (
            ["apply", "-f", str(ROOT / "crds")],
            ["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"],
        ):
            subprocess.run([*kubectl, *arguments], check=True, capture_output=True)
        print(f"{given.waiting} runs wait, {AT_WORK} GPUs, {given.times} times each")
        with an_operator(cluster):
            asyncio.run(measure(connect(), times=given.times, waiting=given.waiting))
        print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
