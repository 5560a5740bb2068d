"""`make bench-policy`: what a namespace's policy costs the operator, per run that waits.

A module of its own because nothing of Kubernetes is wanted here: the gatekeeper is the operator's,
its cache is full, and the API server is a shelf that answers at once. So what is measured is ours
alone, in processor time: reading the run, admission, queue and places, and the ledger's text.
"""

import argparse
import asyncio
import copy
import json
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiohttp
import matplotlib as mpl

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND, TrainingPolicySpec
from lora_api.policy_ledger import LEDGER_KIND
from lora_api.training import KIND
from lora_operator.cache import Cache
from lora_operator.errors import NotFoundError
from lora_operator.gatekeeper import Gatekeeper
from lora_operator.kube.client import KubeClient
from lora_operator.kube.resources import LEDGERS, POLICIES, TRAININGS, Resource
from lora_operator.policy.gate import ask
from lora_operator.policy.limits import Request
from lora_operator.policy.queue import standings
from lora_operator.policy.space import Applicant, Namespace
from lora_operator.policy.turns import release
from lora_operator.state.keys import Key
from lora_operator.state.views import Permission

Object = dict[str, Any]
ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
USERS = 200
FINISHED = (0, 100, 1_000, 10_000)
QUEUED_THEN = 100
POLICY: Object = {
    "maxConcurrentGPUs": 1,
    "maxConcurrentTrainingsPerUser": 1,
    "monthlyTrainingsPerUser": 1000,
    "monthlyBudget": {"amount": "100000"},
    "prices": {"perGpuHour": "2"},
}


class Shelf(KubeClient):
    """Ledgers by namespace, compared and swapped as on an API server, but at once."""

    def __init__(self) -> None:
        super().__init__(session=cast("aiohttp.ClientSession", None), server="")
        self.ledgers: dict[str, Object] = {}

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """No policy is there that the cache does not know."""
        raise NotFoundError(f"{resource.plural} {namespace}/{name}", status=404)

    async def list_objects(
        self, resource: Resource, namespace: str, *, params: dict[str, str]
    ) -> list[Object]:
        """The namespace's ledger, if it has one."""
        return [self.ledgers[namespace]] if namespace in self.ledgers else []

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Its first ledger; events are lost."""
        if resource is not LEDGERS:
            return body
        return self._put(namespace, {**body, "metadata": {**body["metadata"]}}, version=1)

    async def patch(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Its next one."""
        held = self.ledgers[namespace]["metadata"]
        if body["metadata"]["resourceVersion"] != held["resourceVersion"]:
            raise AssertionError("two wrote at once")
        new = {"metadata": {**held}, "spec": body["spec"]}
        return self._put(namespace, new, version=int(held["resourceVersion"]) + 1)

    async def patch_status(
        self, resource: Resource, namespace: str, name: str, body: Object
    ) -> Object:
        """How the policy stands is told to nobody."""
        return body

    def _put(self, namespace: str, body: Object, *, version: int) -> Object:
        # The client would send the text, and read the answer.
        body = json.loads(json.dumps(body))
        body["metadata"]["resourceVersion"] = str(version)
        self.ledgers[namespace] = body
        return body


class World:
    """A cache with runs, and the gatekeeper that is asked about them."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.cache = Cache()
        self.gatekeeper = Gatekeeper(
            client=self.shelf,
            cache=self.cache,
            on_change=lambda _: None,
            on_start=lambda _: None,
            now=lambda: NOW,
        )

    def add_namespace(self, namespace: str, *, finished: int = 0) -> None:
        """A namespace with its policy, and runs that ended this month and are still there."""
        self.cache.put(POLICIES, _object(POLICY_KIND, namespace, ACTING_POLICY, {"spec": POLICY}))
        for number in range(finished):
            self.add_run(namespace, f"ended-{number}", number, ended=True)
        if finished:
            each = finished // min(USERS, finished)
            sums = [
                {"user": _user(number), "trainings": each, "gpuSeconds": 600 * each, "cost": "1"}
                for number in range(min(USERS, finished))
            ]
            speeds = [{"recipe": "sd15", "runs": finished, "work": 64_000, "trainSeconds": 600}]
            spec = {"month": f"{NOW:%Y-%m}", "users": sums, "speeds": speeds}
            ledger = _object(LEDGER_KIND, namespace, f"{NOW:%Y-%m}", {"spec": spec})
            self.shelf.ledgers[namespace] = ledger

    def add_run(self, namespace: str, name: str, number: int, *, ended: bool = False) -> Key:
        """One run as the watch would bring it."""
        body = copy.deepcopy(_ENDED if ended else _NEW)
        body["metadata"] |= {"name": name, "namespace": namespace, "uid": f"{namespace}.{name}"}
        created = NOW - timedelta(minutes=10) + timedelta(milliseconds=number)
        body["metadata"]["creationTimestamp"] = created.strftime("%Y-%m-%dT%H:%M:%SZ")
        body["spec"]["user"] = _user(number)
        self.cache.put(TRAININGS, body)
        return Key(namespace, name)

    async def look(self, key: Key) -> float:
        """Processor microseconds of one look."""
        begun = time.process_time()
        await self.gatekeeper.look(key)
        return (time.process_time() - begun) * 1e6


def _user(number: int) -> str:
    return f"user-{number % USERS:03}"


def _object(kind: str, namespace: str, name: str, body: Object) -> Object:
    metadata = {"namespace": namespace, "name": name, "uid": name, "resourceVersion": "1"}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, **body}


_SPEC: Object = {
    "recipe": "sd15",
    "baseModel": {"uri": "s3://bases/sd15/"},
    "dataset": {"uri": "s3://datasets/anna/"},
    "optimization": {"steps": 1000},
    "output": {"uri": "s3://models/anna/"},
}
_NEW = _object(KIND, "", "", {"spec": _SPEC})
_SINCE = "2026-11-22T11:55:00Z"
_ENDED = _object(
    KIND,
    "",
    "",
    {
        "spec": _SPEC,
        "status": {
            "phase": "Completed",
            "completedAt": _SINCE,
            "gpuSeconds": 600,
            "cost": {"amount": "1", "currency": "USD", "final": True},
            "conditions": [
                {
                    "type": "Succeeded",
                    "status": "True",
                    "reason": "Completed",
                    "lastTransitionTime": _SINCE,
                }
            ],
        },
    },
)


async def queued(runs: int, namespaces: int) -> Object:
    """All runs come at once; then each is looked at again, as on a change of nothing."""
    world = World()
    keys = []
    for space in range(namespaces):
        world.add_namespace(f"ns-{space:03}")
    for number in range(runs):
        keys.append(world.add_run(f"ns-{number % namespaces:03}", f"run-{number}", number))
    first = [await world.look(key) for key in keys]
    again = [await world.look(key) for key in keys]
    decided = _decisions(runs // namespaces, namespaces)
    words = world.gatekeeper.words.values()
    waiting = sum(1 for word in words if word.permission is Permission.AWAITED)
    if waiting != runs - namespaces:
        raise AssertionError(f"{waiting} wait; all but one of each namespace should")
    return {
        "runs": runs,
        "namespaces": namespaces,
        "waiting": waiting,
        "decisionMicroseconds": _spread(decided),
        "firstLookMicroseconds": _spread(first),
        "lookAgainMicroseconds": _spread(again),
    }


def _decisions(runs: int, namespaces: int) -> list[float]:
    """The decision by itself: admission, who may start now, and everybody's place."""
    policy = TrainingPolicySpec.model_validate(POLICY)
    spent = []
    for _ in range(namespaces):
        space = Namespace(policy=policy)
        for number in range(runs):
            run = Applicant(
                uid=str(number),
                name=str(number),
                request=Request(user=_user(number), recipe="sd15", gpus=1, steps=1000),
                created_at=NOW - timedelta(minutes=10) + timedelta(milliseconds=number),
            )
            begun = time.process_time()
            space, _verdict = ask(space, run)
            space = release(space, NOW).namespace
            standings(tuple(space.waiting.values()), space.working.values(), policy, NOW)
            spent.append((time.process_time() - begun) * 1e6)
    return spent


async def beside_finished(finished: int) -> Object:
    """A hundred runs join the queue of a namespace in which so many have ended this month."""
    world = World()
    world.add_namespace("busy", finished=finished)
    leading = await world.look(world.add_run("busy", "before", 0))
    keys = [world.add_run("busy", f"run-{number}", number) for number in range(QUEUED_THEN)]
    spent = [await world.look(key) for key in keys]
    await world.gatekeeper.flush()
    begun = time.process_time()
    await world.gatekeeper.flush()
    flush = (time.process_time() - begun) * 1e6
    return {
        "finished": finished,
        "newLeaderMicroseconds": round(leading, 1),
        "firstLookMicroseconds": _spread(spent),
        "flushMicroseconds": round(flush, 1),
    }


def _spread(microseconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(microseconds)
    return {
        "mean": round(statistics.fmean(ordered), 1),
        "median": round(statistics.median(ordered), 1),
        "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 1),
    }


def table(found: Object) -> str:
    """The figures in words; growth as ratios to the first namespace whose users all have a sum."""
    crowd = found["queued"]
    lines = [
        f"{crowd['runs']} runs at once in {crowd['namespaces']} namespaces, {crowd['waiting']} "
        "wait; microseconds of processor time per run",
        f"{'':<34}{'mean':>9}{'median':>9}{'p99':>9}",
    ]
    for name, field in (
        ("the decision", "decisionMicroseconds"),
        ("the first look, ledger written", "firstLookMicroseconds"),
        ("a later look, nothing new", "lookAgainMicroseconds"),
    ):
        lines.append(f"{name:<34}" + "".join(f"{v:>9.0f}" for v in crowd[field].values()))
    lines.append("")
    lines.append(
        f"{'ended this month':<18}{'per run':>10}{'ratio':>8}{'new leader':>13}{'each 15 s':>13}"
    )
    for row in found["besideFinished"]:
        lines.append(
            f"{row['finished']:<18}{row['firstLookMicroseconds']['median']:>7.0f} us"
            f"{row['ratio']:>8.2f}{row['newLeaderMicroseconds'] / 1000:>10.1f} ms"
            f"{row['flushMicroseconds'] / 1000:>10.1f} ms"
        )
    return "\n".join(lines)


def plot(rows: list[Object], path: Path) -> None:
    """A look's cost against the runs that have ended, beside a cost that would grow along."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of its backend

    ended = [row["finished"] for row in rows]
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.plot(ended, [row["firstLookMicroseconds"]["median"] for row in rows], "o-", label="median")
    axis.plot(ended, [row["firstLookMicroseconds"]["p99"] for row in rows], "s--", label="p99")
    axis.axhline(1000, color="black", linewidth=0.8, label="1 ms")
    axis.set(
        xlabel="runs that ended this month",
        ylabel="look at one more run, us",
        ylim=(0, None),
        xlim=(0, None),
    )
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--namespaces", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench")
    arguments = parser.parse_args()
    rows = [asyncio.run(beside_finished(finished)) for finished in FINISHED]
    # The sums of two hundred users are the fixed cost; the first row has none.
    base = next(row for row in rows if row["finished"] >= USERS)["firstLookMicroseconds"]["median"]
    for row in rows:
        row["ratio"] = round(row["firstLookMicroseconds"]["median"] / base, 2)
    found = {
        "queued": asyncio.run(queued(arguments.runs, arguments.namespaces)),
        "besideFinished": rows,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "policy.json").write_text(json.dumps(found, indent=2) + "\n")
    plot(rows, arguments.out / "policy.png")
    print(table(found))


if __name__ == "__main__":
    main()
