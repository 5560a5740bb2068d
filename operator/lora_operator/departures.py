"""Runs whose objects are gone while their pods are not: GPUs are free when the last pod has ended.

A module of its own because a run that is deleted is seen no more, and what is left of it is known
by its pods' labels and by what was last read off its meter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from lora_operator.builders.ownership import is_pod_of, owning_job
from lora_operator.cache import Cache, run_of
from lora_operator.gpu_meter import Meter
from lora_operator.kube.resources import PODS
from lora_operator.labels import RUN_UID_LABEL, job_number
from lora_operator.policy import gate
from lora_operator.policy.ledger import Entry
from lora_operator.policy.limits import Request
from lora_operator.policy.money import NOTHING, highest_price
from lora_operator.policy.space import Applicant, Namespace
from lora_operator.state.keys import Key, Object
from lora_operator.state.reading import read_pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is remembered of a run that was looked at: who is gone tells nothing."""

    key: Key
    uid: str
    created_at: datetime
    meter: Meter | None = None
    price: Decimal = NOTHING
    """Of a GPU-hour on its node."""
    jobs: frozenset[str] = frozenset()
    """Uids of its Jobs."""


def see_off(
    space: Namespace, leaving: Mapping[str, Known], cache: Cache, now: datetime
) -> tuple[Namespace, dict[str, Known]]:
    """Pay for what runs held that are gone, and forget those of which no pod is left.

    Args:
        space: The gate.
        leaving: The runs that are gone, by uid.
        cache: Says which of their pods are left.
        now: The present.

    Returns:
        The gate, and who is still leaving.
    """
    still = {}
    for uid, known in leaving.items():
        space = _billed(space, known, now)
        if uid in space.working and _has_live_pod(cache, known):
            still[uid] = known
        else:
            space = gate.forget(space, uid, created_at=known.created_at)
    return space, still


def gone_before(
    space: Namespace, live: set[str], namespace: str, cache: Cache, now: datetime
) -> tuple[Namespace, dict[str, Known]]:
    """Runs that a new leader finds in the ledgers, and their objects nowhere."""
    owners = {
        pod["metadata"].get("labels", {}).get(RUN_UID_LABEL): key
        for pod in cache.all(PODS)
        if pod["metadata"]["namespace"] == namespace and (key := run_of(PODS, pod)) is not None
    }
    leaving, prices = {}, space.policy.prices
    for ledger in list(space.ledgers.values()):
        for uid in ledger.runs.keys() - live:
            entry, created_at = ledger.runs[uid], ledger.month.start
            key = owners.get(uid, Key(namespace, ""))
            space = gate.recall(space, _applicant(uid, key.name, entry, created_at))
            meter = Meter(gpu_seconds=entry.gpu_seconds, at=now, gpus=entry.gpus)
            leaving[uid] = Known(
                key=key, uid=uid, created_at=created_at, meter=meter, price=highest_price(prices)
            )
    return space, leaving


def _billed(space: Namespace, known: Known, now: datetime) -> Namespace:
    if known.meter is None:
        return space
    return gate.bill(
        space,
        known.uid,
        gpu_seconds=known.meter.until(now),
        per_gpu_hour=known.price,
        created_at=known.created_at,
    )


def _has_live_pod(cache: Cache, known: Known) -> bool:
    return any(
        _belongs_to(body, known) and not read_pod(body).has_ended
        for body in cache.children(known.key, PODS)
    )


def _belongs_to(pod: Object, known: Known) -> bool:
    """Whether it is a pod of one of the run's Jobs; anybody's Job may give its pods our labels.

    Whoever never saw the run's Jobs has to go by their names.
    """
    labels = pod["metadata"].get("labels", {})
    if known.jobs:
        return any(is_pod_of(pod, job) for job in known.jobs)
    name = owning_job(pod) or ""
    is_named_so = job_number(known.key.name, name) is not None
    return bool(labels.get(RUN_UID_LABEL) == known.uid) and is_named_so


def _applicant(uid: str, name: str, entry: Entry, created_at: datetime) -> Applicant:
    return Applicant(
        uid=uid,
        name=name,
        request=Request(user=entry.user, recipe=entry.recipe, gpus=entry.gpus, steps=None),
        created_at=created_at,
        preemptible=False,
    )
