"""A pod that is to go and whose node is dead: who waits for it says so, and what would end that."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import NOW, a_job, a_pod, a_training
from tests.sights import ASight, seen

from lora_operator.rules.interruption import OUT_OF_SERVICE, OVERDUE
from lora_operator.state.decision import Decision

GOING = a_pod().running().being_deleted()
CANCELLED = a_training().cancelled()
WAITS: dict[str, ASight] = {
    "cancelled": seen(CANCELLED).with_job(a_job().being_deleted()).with_pods(GOING),
    "cancelled while its upload goes on": seen(CANCELLED)
    .with_claim()
    .with_upload_job(a_job().being_deleted(), GOING),
    "suspended": seen(a_training().suspended()).with_job(a_job().suspended()).with_pods(GOING),
    "suspended in a queue": seen(a_training().suspended())
    .with_job(a_job().queued_in("gpus").being_deleted())
    .with_pods(GOING),
    "interrupted": seen().with_job().with_pods(GOING),
}


def said(decision: Decision) -> str:
    assert decision.status is not None
    return decision.status.message or ""


@pytest.mark.parametrize("who", WAITS)
def test_the_wait_names_the_node_and_who_can_end_it(who: str) -> None:
    decision = WAITS[who].decide()
    words = ("anna-train-x1", "node-1", "if the node is dead", OUT_OF_SERVICE)
    assert [part for part in words if part not in said(decision)] == []
    assert decision.revisit_at is not None


@pytest.mark.parametrize("who", WAITS)
def test_a_node_that_does_not_answer_is_called_so_in_time(who: str) -> None:
    early = WAITS[who].settled()
    late = NOW + OVERDUE
    assert early.decide(now=late - timedelta(seconds=1)).status is None
    decision = early.decide(now=late)
    words = ("node node-1 does not answer", "12:00 UTC", "Node object", OUT_OF_SERVICE)
    assert [part for part in words if part not in said(decision)] == []
    again = early.with_status(decision.status).decide(now=late + timedelta(minutes=5))
    assert again.status is None
    assert again.revisit_at is not None


def test_a_pod_without_a_node_waits_for_none() -> None:
    pod = replace(a_pod(), meta=GOING.meta)
    sight = seen(CANCELLED).with_job(a_job().being_deleted()).with_pods(pod)
    assert "node" not in said(sight.decide())
