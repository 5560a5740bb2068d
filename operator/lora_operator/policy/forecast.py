"""When a waiting run is likely to start, found by playing the queue forward.

A module of its own because an estimate may be wrong without anything going wrong: nothing is
decided by it. It plays with the queue's own rules, so what it leaves out is only what nobody knows:
runs that are yet to come, and how long runs take that were never measured.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from datetime import datetime

from lora_api.policy import TrainingPolicySpec
from lora_operator.policy.queue import Waiting, Working, standings, startable

# Further back an estimate would say little, and cost the more.
FORESEEN = 100


def forecast(
    waiting: Sequence[Waiting],
    working: Sequence[Working],
    policy: TrainingPolicySpec,
    now: datetime,
) -> dict[str, datetime]:
    """Expected start by uid, for those at the head of the queue.

    Args:
        waiting: All runs in the queue.
        working: All runs at work. One that is overdue is expected to end at any moment, one of
            which no end is known not to end.
        policy: Of the namespace.
        now: The present.

    Returns:
        No entry for who is too far back, or waits for a run of which nothing is known.
    """
    left = list(standings(waiting, working, policy, now)[:FORESEEN])
    at_work = {run.uid: run for run in working}
    ends = [(max(now, run.ends_at), run.uid) for run in working if run.ends_at is not None]
    heapq.heapify(ends)
    expected: dict[str, datetime] = {}
    time = now
    while left:
        for run in startable(left, at_work.values(), policy, time):
            expected[run.uid] = time
            begun = at_work[run.uid] = run.let_go(time)
            left.remove(run)
            if begun.ends_at is not None:
                heapq.heappush(ends, (begun.ends_at, run.uid))
        if not ends:
            break
        time, ended = heapq.heappop(ends)
        del at_work[ended]
        while ends and ends[0][0] == time:
            del at_work[heapq.heappop(ends)[1]]
    return expected
