"""Who kills the operator after a certain write, and answers its questions to trainers.

A module of its own because it sits on the wire: it knows writes and their names, and nothing of
lives.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable

from aiohttp import web
from tests.api.interception import Forward, Request, refusal
from tests.api.operator_process import Object, Operator

from lora_api.progress import Progress

QUIET_SECONDS = 1.0
REFUSED = "refused"
Point = tuple[str, int]
"""A write's label, and how many writes of that label came before it."""
Trainer = Callable[[int], Progress]
"""What a trainer tells of itself, by the number of the attempt that it is."""


class Reaper:
    """The proxy's rule: after a certain write the operator dies, and another one starts."""

    def __init__(
        self, operator: Operator, *, deadly: Point | None, trainer: Trainer | None = None
    ) -> None:
        self.writes: list[str] = []
        self.strikes = False
        self.has_struck = False
        self._operator = operator
        self._deadly = deadly
        self._trainer = trainer
        self._asked: list[str] = []
        self._under_way = 0
        self._last_at = time.monotonic()

    async def __call__(self, request: Request, forward: Forward) -> web.StreamResponse:
        if self._trainer is not None and request.path.endswith("/proxy/progress"):
            return self._tell(request.path, self._trainer)
        if not request.is_write:
            return await forward()
        self._under_way += 1
        try:
            answer = await forward()
        finally:
            self._under_way -= 1
            self._last_at = time.monotonic()
        label = _label(request, answer.status)
        point = (label, self.writes.count(label))
        self.writes.append(label)
        if self.strikes or point != self._deadly:
            return answer
        self.strikes = True
        await asyncio.to_thread(self._operator.kill)
        threading.Thread(target=self._succeed, daemon=True).start()
        return refusal(503, "Dead")  # nobody is there to read it

    def is_quiet(self) -> bool:
        return not self._under_way and time.monotonic() - self._last_at > QUIET_SECONDS

    def _succeed(self) -> None:
        self._operator.start(wait=False)
        self.has_struck = True

    def _tell(self, path: str, trainer: Trainer) -> web.Response:
        """Answer as the trainer of an attempt, in the order in which they are first asked."""
        if path not in self._asked:
            self._asked.append(path)
        told = trainer(self._asked.index(path))
        return web.Response(text=told.model_dump_json(by_alias=True))


def _label(request: Request, status: int) -> str:
    """What a write is about, the same in every life."""
    body: Object = json.loads(request.body or b"{}")
    about_run: Object = body.get("status", {})
    reasons = [c["reason"] for c in about_run.get("conditions", []) if c["type"] == "Running"]
    # A patch has the phase only where that changed, which depends on what was written before.
    ledger = body.get("spec", {}).get("runs") or ()
    states = sorted(f"{run['user']}:{run['state']}" for run in ledger)
    about = [body.get("reason"), *(reasons or [about_run.get("phase")]), *states]
    outcome = REFUSED if status == 403 else None
    return " ".join([str(request), *filter(None, [*about, outcome])])
