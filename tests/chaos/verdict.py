"""The verdict: what the API server's audit log, the bucket and the runs say after the storm.

A module of its own because it believes no status that it has not compared with something else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from tests.chaos.clock import Clock
from tests.chaos.crowd import Crowd
from tests.chaos.ends import Findings, judge_children, judge_end
from tests.chaos.ground import Ground, Object, persist
from tests.chaos.lateness import LATE_SECONDS
from tests.chaos.wishes import Wish


@dataclass
class Verdict:
    """All that was found, and the figures that go with it."""

    kills: Counter[str]
    wishes: Counter[str]
    ephemeral: int
    found: Findings
    slowest_seconds: float = 0.0
    without_operator_seconds: float = 0.0
    attempts: int = 0
    jobs: int = 0

    @property
    def is_good(self) -> bool:
        """Whether nothing broke."""
        return not any(vars(self.found).values())

    def __str__(self) -> str:
        found, runs = self.found, self.wishes.total()
        return (
            f"kills {self.kills.total()} ({_listed(self.kills)}), "
            f"runs {runs} ({_listed(self.wishes)}; {self.ephemeral} Ephemeral), "
            f"Jobs {self.jobs}, attempts {self.attempts}, "
            f"lost {len(found.lost)}, doubled {len(found.doubled)}, stuck {len(found.stuck)}, "
            f"artifacts missing {len(found.missing)}, left behind {len(found.left)}, "
            f"statuses late {len(found.late)} (slowest {self.slowest_seconds:.0f} s), "
            f"no operator alive for {self.without_operator_seconds:.0f} s"
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def judge(crowd: Crowd, kills: Counter[str], clock: Clock) -> Verdict:
    """Compare everything with everything."""
    ground, placed = crowd.ground, crowd.placed
    verdict = Verdict(
        kills=kills,
        wishes=Counter(str(order.wish) for order in placed.values()),
        ephemeral=sum(order.ephemeral for order in placed.values()),
        found=Findings(),
    )
    found = verdict.found
    runs = persist(ground.runs)
    buckets = {crowd.bucket(order) for order in placed.values()}
    existing = [b for b in sorted(buckets) if persist(partial(ground.has_bucket, b))]
    stored = persist(lambda: ground.stored(*existing))
    children = persist(ground.children)
    for name, order in placed.items():
        verdict.attempts += runs.get(name, {}).get("status", {}).get("attempts", 0)
        judge_end(order, runs.get(name), stored, found)
        judge_children(order, runs.get(name), children, found)
    found.doubled += [f"{uri}: two pods in one workspace" for uri in stored if "/doubled-" in uri]
    found.doubled += [f"{name}: {pods} at once" for name, pods in clock.doubled.items()]
    for job, count in jobs_created(ground).items():
        verdict.jobs += count
        # Each try to store what is trained is a Job of the same name; one of them at a time.
        if count > 1 and not job.endswith("-upload"):
            found.doubled.append(f"Job {job} was created {count} times")
    verdict.without_operator_seconds = clock.without_operator_seconds
    longest = clock.lateness.longest
    verdict.slowest_seconds = max((delay.seconds for delay in longest.values()), default=0.0)
    found.late += [
        f"{name}: {delay.untruth}, for {delay.seconds:.0f} s"
        for name, delay in longest.items()
        if delay.seconds > LATE_SECONDS
    ]
    return verdict


def is_cleaned_up(crowd: Crowd) -> bool:
    """Whether all that is due to go is gone."""
    found = Findings()
    runs, children = persist(crowd.ground.runs), persist(crowd.ground.children)
    for name, order in crowd.placed.items():
        judge_children(order, runs.get(name), children, found)
    gone = all(name not in runs for name, o in crowd.placed.items() if o.wish is Wish.DELETE)
    return gone and not found.left


def jobs_created(ground: Ground) -> Counter[str]:
    """How often each Job was created, ever."""
    return Counter(
        entry["objectRef"]["name"]
        for entry in _audited(ground)
        if entry["verb"] == "create"
        and entry["objectRef"].get("resource") == "jobs"
        and entry["objectRef"].get("namespace") == ground.namespace
        and entry.get("responseStatus", {}).get("code") == 201
    )


def _audited(ground: Ground) -> Iterator[Object]:
    """The whole audit log, what was rotated away included."""
    log = ground.audit_log
    for file in sorted(log.parent.glob(f"{log.stem}*{log.suffix}")):
        for line in file.read_text().splitlines():
            # A killed API server may leave half a line.
            with suppress(ValueError):
                entry: Object = json.loads(line)
                if "objectRef" in entry:
                    yield entry
