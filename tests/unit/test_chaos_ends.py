"""What the storm calls lost, stuck, missing or left behind."""

import hashlib
import json
import random
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from tests.chaos.ends import Findings, judge_children, judge_end
from tests.chaos.wishes import Order, Wish, orders

FOLDER = "s3://models/ns/anna"
LORA = b"the LoRA"
STORED = {
    f"{FOLDER}/anna.safetensors": LORA,
    f"{FOLDER}/report.json": json.dumps({"began": [0, 40]}).encode(),
}
ORDER = Order(
    name="anna",
    wish=Wish.NOTHING,
    steps=100,
    ephemeral=False,
    keep_partial=False,
    clean_up_soon=False,
    ask_after=1,
    hold_for=1,
)


def a_run(phase: str, **status: object) -> dict[str, Any]:
    artifact = {
        "uri": f"{FOLDER}/anna.safetensors",
        "digest": f"sha256:{hashlib.sha256(LORA).hexdigest()}",
    }
    return {"status": {"phase": phase, "artifact": artifact, "startedAt": "now", **status}}


def wishing(wish: Wish, **more: Any) -> Order:  # noqa: ANN401
    return replace(ORDER, wish=wish, **more)


ATTEMPTS = [{"step": 47}, {"step": 100}]
ENDS: dict[str, tuple[Order, dict[str, Any] | None, dict[str, bytes], str | None]] = {
    "completed with its LoRA": (ORDER, a_run("Completed"), STORED, None),
    "failed": (ORDER, a_run("Failed"), STORED, "lost"),
    "gone": (ORDER, None, STORED, "lost"),
    "cancelled by nobody": (ORDER, a_run("Cancelled"), STORED, "lost"),
    "not ended": (ORDER, a_run("Training"), STORED, "stuck"),
    "completed without a LoRA": (ORDER, a_run("Completed"), {}, "missing"),
    "completed with another LoRA": (
        ORDER,
        a_run("Completed"),
        STORED | {f"{FOLDER}/anna.safetensors": b"another"},
        "missing",
    ),
    "completed with a copy of its workspace": (
        wishing(Wish.NOTHING, ephemeral=True),
        a_run("Completed"),
        STORED | {f"{FOLDER}/.workspace/1/checkpoint": b""},
        "left",
    ),
    "went on from its checkpoint": (
        ORDER,
        a_run("Completed", recentAttempts=ATTEMPTS),
        STORED,
        None,
    ),
    "began anew after its checkpoint": (
        ORDER,
        a_run("Completed", recentAttempts=ATTEMPTS),
        STORED | {f"{FOLDER}/report.json": b'{"began": [0]}'},
        "lost",
    ),
    "cancelled as asked": (wishing(Wish.CANCEL), a_run("Cancelled"), {}, None),
    "completed before it was cancelled": (wishing(Wish.CANCEL), a_run("Completed"), STORED, None),
    "failed instead of being cancelled": (wishing(Wish.CANCEL), a_run("Failed"), {}, "lost"),
    "failed as its few retries were spent by crashes": (
        wishing(Wish.STORE_LATER),
        a_run("Failed", recentAttempts=[{"exitCode": 1}, {"exitCode": 1}]),
        {},
        None,
    ),
    "failed after it was trained": (
        wishing(Wish.STORE_LATER),
        a_run("Failed", recentAttempts=[{"exitCode": 1}, {"exitCode": 1}], trained={"at": "now"}),
        {},
        "lost",
    ),
    "deleted": (wishing(Wish.DELETE), None, {}, None),
    "deleted and still there": (wishing(Wish.DELETE), a_run("Training"), {}, "stuck"),
    "suspended and never resumed": (wishing(Wish.SUSPEND), a_run("Suspended"), {}, "stuck"),
}


@pytest.mark.parametrize("sentence", ENDS)
def test_a_run_that_is(sentence: str) -> None:
    order, run, stored, kind = ENDS[sentence]
    found = Findings()
    judge_end(order, run, stored, found)
    assert [kind for kind, lines in vars(found).items() if lines] == ([kind] if kind else [])


CLAIM, JOB = "claim/anna-workspace", "job/anna-train"
KEPT = wishing(Wish.CANCEL, keep_partial=True, clean_up_soon=True)
LEFT: dict[str, tuple[Order, dict[str, Any] | None, list[str], bool]] = {
    "the Job of a run that keeps its log for now": (ORDER, a_run("Completed"), [JOB, CLAIM], True),
    "the Job of a run whose time is over": (
        wishing(Wish.NOTHING, clean_up_soon=True),
        a_run("Completed"),
        [JOB],
        False,
    ),
    "a child of a run that is deleted": (wishing(Wish.DELETE), None, [CLAIM], False),
    "a child of another run": (wishing(Wish.DELETE), None, ["job/berta-train"], True),
    "the workspace that was to be kept": (KEPT, a_run("Cancelled"), [CLAIM], True),
    "nothing of the workspace that was to be kept": (KEPT, a_run("Cancelled"), [], False),
}


@pytest.mark.parametrize("sentence", LEFT)
def test_what_is_left_is(sentence: str) -> None:
    order, run, children, is_right = LEFT[sentence]
    found = Findings()
    judge_children(order, run, children, found)
    assert (not found.left) == is_right


def test_each_wish_meets_each_kind_of_workspace_in_two_hands() -> None:
    dealt = _dealt(14)
    met = {(order.wish, order.ephemeral) for order in dealt}
    assert met == {(wish, kind) for wish in Wish for kind in (True, False)}


def test_a_seed_gives_the_same_orders_again() -> None:
    assert _dealt(14) == _dealt(14)


def _dealt(count: int) -> list[Order]:
    return list(islice(orders(random.Random(1)), count))  # noqa: S311 - a seed must repeat itself
