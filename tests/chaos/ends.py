"""How one run ended, compared with what its user asked and with what lies in the bucket.

A module of its own because it decides from values alone, so that it can be shown what it must find.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.lateness import ENDED
from tests.chaos.standin import CRASHED, STEPS_BETWEEN_CHECKPOINTS
from tests.chaos.wishes import FEW_RETRIES, Order, Wish, lost_steps

Object = dict[str, Any]


@dataclass
class Findings:
    """What broke, by kind; each entry names its run."""

    lost: list[str] = field(default_factory=list)
    """Did not end as its user asked, or lost what it had learned."""
    doubled: list[str] = field(default_factory=list)
    """Two Jobs of one name, or two pods at once."""
    stuck: list[str] = field(default_factory=list)
    """Did not end at all, or does not go."""
    missing: list[str] = field(default_factory=list)
    """Completed, and its LoRA is not there or another one."""
    left: list[str] = field(default_factory=list)
    """Something was left behind that should be gone, or is gone that should be there."""
    late: list[str] = field(default_factory=list)
    """Its status was untrue for too long."""


def judge_end(
    order: Order, run: Object | None, stored: Mapping[str, bytes], found: Findings
) -> None:
    """Compare a run's end with what was asked.

    Args:
        order: What its user wanted.
        run: What the API server knows of it, if anything.
        stored: All objects of the buckets, by URI.
        found: Receives what is wrong.
    """
    name = order.name
    status = (run or {}).get("status", {})
    phase = status.get("phase")
    if order.wish is Wish.DELETE:
        if run is not None:
            found.stuck.append(f"{name}: was deleted and is still {phase}")
    elif phase in ENDED and phase in order.ends:
        if phase == "Completed":
            _judge_artifact(order, status, stored, found)
    elif order.wish is Wish.STORE_LATER and _crashed_too_often(status):
        return
    elif phase in ENDED or run is None:
        found.lost.append(f"{name} ({order.wish}): {phase} {status.get('message')}")
    else:
        found.stuck.append(f"{name} ({order.wish}): {phase} {status.get('message')}")


def _crashed_too_often(status: Object) -> bool:
    """Whether its few retries were spent before it was trained: then it has failed as it should."""
    attempts = status.get("recentAttempts", ())
    crashes = sum(attempt.get("exitCode") == CRASHED for attempt in attempts)
    is_trained = "trained" in status
    return status.get("phase") == "Failed" and crashes > FEW_RETRIES and not is_trained


def _judge_artifact(
    order: Order, status: Object, stored: Mapping[str, bytes], found: Findings
) -> None:
    artifact = status["artifact"]
    content = stored.get(artifact["uri"])
    folder = artifact["uri"].rpartition("/")[0]
    report = stored.get(f"{folder}/report.json")
    if content is None or report is None:
        found.missing.append(f"{order.name}: {artifact['uri']} is not there")
        return
    if "sha256:" + hashlib.sha256(content).hexdigest() != artifact["digest"]:
        found.missing.append(f"{order.name}: {artifact['uri']} is another one")
    copies = [uri for uri in stored if uri.startswith(f"{folder}/.workspace/")]
    if copies:
        found.left.append(f"{order.name}: {copies}")
    before_last = [a.get("step") or 0 for a in status.get("recentAttempts", ())][:-1]
    if order.ephemeral and order.wish is Wish.STORE_LATER:
        return  # Where nothing can be stored there was no copy, either.
    again = lost_steps(json.loads(report)["began"], before_last, every=STEPS_BETWEEN_CHECKPOINTS)
    if again:
        found.lost.append(f"{order.name}: did {again} steps again that had been made safe")


def judge_children(
    order: Order, run: Object | None, children: Collection[str], found: Findings
) -> None:
    """Compare what is left of a run with what should be, once all clean-up is due.

    Args:
        order: What its user wanted.
        run: What the API server knows of it, if anything.
        children: Kind and name of what there is, as "job/anna-train".
        found: Receives what is wrong.
    """
    mine = {child for child in children if child.partition("/")[2].startswith(f"{order.name}-")}
    claim = f"claim/{order.name}-workspace"
    if run is None or order.clean_up_soon:
        keeps = (
            run is not None
            and run.get("status", {}).get("phase") == "Cancelled"
            and order.keep_partial
            and "partial" not in run["status"]
        )
        over = mine - {claim} if keeps else mine
        if over:
            found.left.append(f"{order.name}: {sorted(over)}")
    if not is_kept_where_asked(order, run, mine, claim):
        found.left.append(f"{order.name}: its partial LoRA's workspace is gone")


def is_kept_where_asked(
    order: Order, run: Object | None, mine: Collection[str], claim: str
) -> bool:
    """Whether a cancelled run's workspace is there where its user wanted to keep it."""
    status = (run or {}).get("status", {})
    had_claim = not order.ephemeral and status.get("startedAt") is not None
    wants = order.wish is Wish.CANCEL and order.keep_partial and status.get("phase") == "Cancelled"
    return not (wants and had_claim) or claim in mine or "partial" in status
