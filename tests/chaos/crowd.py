"""The users of the storm: they apply runs, and ask of them what they want while things die.

A module of its own because users come and go at their own times, whatever dies just then.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.chaos.ground import Ground, Object, persist
from tests.chaos.lateness import ENDED
from tests.chaos.wishes import FEW_RETRIES, Order, Wish, orders

AT_ONCE = 6
RETRIES = 10
CLEAN_UP_SECONDS = 30
SOON = timedelta(minutes=1)


@dataclass
class Ask:
    """What is still to be asked of one run."""

    order: Order
    at: float
    was_held: bool = False


@dataclass
class Crowd:
    """All users; what they want is decided by chance."""

    ground: Ground
    chance: random.Random
    placed: dict[str, Order] = field(default_factory=dict)
    """All runs that were ever applied, by name."""
    _open: list[Ask] = field(default_factory=list)
    _orders: Iterator[Order] = field(init=False)

    def __post_init__(self) -> None:
        self._orders = orders(self.chance)

    def keep_busy(self) -> None:
        """Apply new runs until enough are under way."""
        for _ in range(AT_ONCE - len(self.unended(persist(self.ground.runs)))):
            order = next(self._orders)
            self.placed[order.name] = order
            self._place(order)

    def unended(self, runs: dict[str, Object]) -> list[str]:
        """Names of those runs whose users still wait for something."""
        return [
            order.name
            for order in self.placed.values()
            if (
                order.name in runs
                if order.wish is Wish.DELETE
                else _phase(runs.get(order.name)) not in ENDED
            )
        ]

    def ask(self) -> None:
        """Ask for whatever is due."""
        runs = persist(self.ground.runs)
        due = [ask for ask in self._open if time.monotonic() >= ask.at]
        self._open = [ask for ask in self._open if ask not in due]
        for ask in due:
            self._ask(ask, runs.get(ask.order.name))
        for name, run in runs.items():
            self._hurry(self.placed[name], run)

    def has_asked(self) -> bool:
        """Whether nothing is left to be asked."""
        return not self._open

    def bucket(self, order: Order) -> str:
        """Where a run's LoRA goes."""
        if order.wish is not Wish.STORE_LATER:
            return "models"
        return f"{self.ground.namespace}-{order.name}"

    def _place(self, order: Order) -> None:
        stores_later = order.wish is Wish.STORE_LATER
        spec: Object = {
            "output": {"uri": self.ground.output(order.name, bucket=self.bucket(order))},
            "limits": {"retries": FEW_RETRIES if stores_later else RETRIES},
        }
        if order.ephemeral:
            spec["workspace"] = {"type": "Ephemeral", "size": "100Mi"}
        if order.clean_up_soon:
            spec["retention"] = {"jobSeconds": CLEAN_UP_SECONDS}
        self.ground.apply(order.name, steps=order.steps, **spec)
        if order.wish in {Wish.SUSPEND, Wish.CANCEL, Wish.DELETE}:
            self._open.append(Ask(order, time.monotonic() + order.ask_after))

    def _ask(self, ask: Ask, run: Object | None) -> None:
        name = ask.order.name
        print(f"     {ask.order.wish} {name} while {_phase(run)}", flush=True)
        match ask.order.wish:
            case Wish.SUSPEND if not ask.was_held:
                self.ground.change(name, {"suspend": True})
                again = time.monotonic() + ask.order.hold_for
                self._open.append(Ask(ask.order, again, was_held=True))
            case Wish.SUSPEND:
                self.ground.change(name, {"suspend": False})
            case Wish.CANCEL:
                self.ground.change(name, {"cancel": {"keepPartial": ask.order.keep_partial}})
            case Wish.DELETE:
                self.ground.delete(name)

    def _hurry(self, order: Order, run: Object) -> None:
        """Make the hour until the next try to store a minute's matter."""
        upload = run.get("status", {}).get("upload")
        if _phase(run) in ENDED or not upload or "nextTryAt" not in upload:
            return
        if order.wish is Wish.STORE_LATER:
            self.ground.make_bucket(self.bucket(order))
        if datetime.fromisoformat(upload["nextTryAt"]) > datetime.now(UTC) + SOON:
            print(f"     {order.name} is to be stored now", flush=True)
            self.ground.upload_now(run)


def _phase(run: Object | None) -> str | None:
    phase: str | None = (run or {}).get("status", {}).get("phase")
    return phase
