"""The storm: runs are applied, things die at moments that a seed decides, all ends well.

`python -m tests.chaos.storm --kills 200 --seed 1`
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from tests.chaos.clock import Clock
from tests.chaos.crowd import Crowd
from tests.chaos.faults import choose
from tests.chaos.ground import Ground, persist
from tests.chaos.verdict import Verdict, is_cleaned_up, judge

CALM_SECONDS = (0.5, 4.0)
# A killed API server or kubelet needs ten seconds; a run that failed often waits minutes for its
# next attempt, as Jobs back off.
DEADLINE_SECONDS = 900.0
# Jobs of some runs go half a minute after the end; their pods have a minute for that.
CLEAN_UP_SECONDS = 180.0


def storm(ground: Ground, *, kills: int, seed: int) -> Verdict:
    """Let it rage, let it pass, and look what stands."""
    chance = random.Random(seed)  # noqa: S311 - a seed must give the same storm
    crowd = Crowd(ground, chance)
    done: Counter[str] = Counter()
    clock = Clock(ground)
    try:
        while done.total() < kills:
            crowd.keep_busy()
            crowd.ask()
            time.sleep(chance.uniform(*CALM_SECONDS))
            fault = choose(chance)
            if fault(ground, chance):
                done[fault.__name__] += 1
                print(f"{done.total():4} {fault.__name__}", flush=True)
        _until_ended(crowd)
        _until_cleaned_up(crowd)
    finally:
        clock.stop()
    verdict = judge(crowd, done, clock)
    if not verdict.is_good:
        ground.keep_evidence()
    if not ground.delete_namespace():
        verdict.found.stuck.append(f"namespace {ground.namespace} does not go")
    return verdict


def _until_ended(crowd: Crowd) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        crowd.ask()
        left = crowd.unended(persist(crowd.ground.runs))
        if not left and crowd.has_asked():
            return
        print(f"     waiting for {len(left)}: {left[:6]}", flush=True)
        time.sleep(5)


def _until_cleaned_up(crowd: Crowd) -> None:
    deadline = time.monotonic() + CLEAN_UP_SECONDS
    while time.monotonic() < deadline and not is_cleaned_up(crowd):
        time.sleep(5)


def main() -> int:
    """The program; exit status 1 where an invariant broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    verdict = storm(Ground(), kills=given.kills, seed=given.seed)
    for kind, lines in vars(verdict.found).items():
        for line in lines:
            print(f"{kind}: {line}")
    print(verdict)
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
