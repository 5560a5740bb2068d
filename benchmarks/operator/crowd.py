"""The crowd: nodes without kubelets, runs by the thousand, and a trainer that answers for all pods.

A module of its own because it is the scenery of every measurement and measures nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from lora_api.job import PROGRESS_PORT
from lora_api.progress import Progress, Stage
from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_api.status import ArtifactStatus
from lora_operator.kube.resources import TRAININGS

AT_ONCE = 16  # the operator's default number of workers
NODES = 20
# All of 127.0.0.0/8 is this machine: one server answers for every address of a pod.
POD_CIDR = "127.96.0.0/16"
STEPS = 3000
SPEC: dict[str, Any] = {
    "recipe": "sd15",
    "baseModel": {"uri": "s3://bases/small/"},
    "dataset": {"uri": "s3://datasets/anna/"},
    "optimization": {"steps": STEPS},
    "output": {"uri": "s3://models/anna/"},
    "credentialsSecretName": "s3",
}


def manifest(namespace: str, name: str) -> dict[str, Any]:
    """A run to apply."""
    return {
        "apiVersion": TRAININGS.api_version,
        "kind": "LoRATraining",
        "metadata": {"name": name, "namespace": namespace},
        "spec": SPEC,
    }


async def all_at_once(
    count: int, do: Callable[[int], Awaitable[object]], *, width: int = AT_ONCE
) -> None:
    """Do something `count` times, `width` at a time."""
    slots = asyncio.Semaphore(width)

    async def one(number: int) -> None:
        async with slots:
            await do(number)

    await asyncio.gather(*(one(number) for number in range(count)))


def write_stages(folder: Path) -> Path:
    """KWOK's rules, with the words a trainer leaves at its end."""
    result = Result(
        outcome=Outcome.SUCCEEDED,
        reason=Reason.COMPLETED,
        message="Trained, checked and stored.",
        retryable=False,
        step=STEPS,
        total_steps=STEPS,
        loss=0.04,
        artifact=ArtifactStatus(
            uri="s3://models/anna/model.safetensors",
            digest="sha256:" + "ab" * 32,
            size_bytes=123456,
            format="kohya",
        ),
    )
    text = (Path(__file__).parent / "stages.yaml").read_text()
    target = folder / "stages.yaml"
    target.write_text(text.replace("@RESULT@", result.to_termination_message().decode()))
    return target


async def set_the_scene(kick: Callable[..., Awaitable[object]]) -> None:
    """Make a storage class and nodes by `kick(verb, path, body)`, as administrator."""
    storage = {
        "metadata": {
            "name": "fake",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/host-path",
    }
    await kick("POST", "/apis/storage.k8s.io/v1/storageclasses", storage)
    for number in range(NODES):
        await kick("POST", "/api/v1/nodes", {"metadata": {"name": f"fake-{number}"}})


class Trainers:
    """One server that tells the progress of all pods, each of which began at its own moment.

    A training of `seconds` gains one percent every hundredth of them.
    """

    def __init__(self, *, seconds: float) -> None:
        self.seconds = seconds
        self.began = time.time()
        self.moves = True
        self.asked = 0

    def step_of(self, address: str, now: float) -> int:
        """The step a pod is at; pods are spread over one percent, as real ones are."""
        *_, high, low = (int(part) for part in address.split("."))
        spread = 256 * high + low
        age = now - self.began + (spread % 1000) / 1000 * self.seconds / 100
        return min(STEPS - 1, int(age / self.seconds * STEPS))

    async def answer(self, request: web.Request) -> web.Response:
        """GET /progress."""
        self.asked += 1
        assert request.transport is not None  # noqa: S101 - there is one while we answer
        address = request.transport.get_extra_info("sockname")[0]
        now = time.time() if self.moves else self.began
        step = self.step_of(address, now)
        told = Progress(
            stage=Stage.TRAIN,
            step=step,
            total_steps=STEPS,
            loss=0.1,
            steps_per_second=STEPS / self.seconds,
            eta_seconds=int((STEPS - step) * self.seconds / STEPS),
            updated_at=datetime.fromtimestamp(now, UTC),
        )
        return web.Response(
            text=told.model_dump_json(by_alias=True), content_type="application/json"
        )

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Answer on every address of the pods."""
        app = web.Application()
        app.router.add_get("/progress", self.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", PROGRESS_PORT, backlog=1024).start()  # noqa: S104
        try:
            yield
        finally:
            await runner.cleanup()
