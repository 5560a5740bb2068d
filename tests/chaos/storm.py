"""The storm: runs are applied, things die at moments that a seed decides, all ends well.

`python -m tests.chaos.storm --kills 200 --seed 1`
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from tests.chaos.faults import choose
from tests.chaos.ground import Ground, persist
from tests.chaos.verdict import ENDED, Clock, Verdict, judge

AT_ONCE = 6
STEPS = (40, 160)
CALM_SECONDS = (0.5, 4.0)
# A killed API server or kubelet needs ten seconds; a run that failed often waits minutes for its
# next attempt, as Jobs back off.
DEADLINE_SECONDS = 900.0


def storm(ground: Ground, *, kills: int, seed: int) -> Verdict:
    """Let it rage, let it pass, and look what stands."""
    chance = random.Random(seed)  # noqa: S311 - a seed must give the same storm
    names: list[str] = []
    done: Counter[str] = Counter()
    clock = Clock(ground)
    try:
        while done.total() < kills:
            _keep_busy(ground, names, chance)
            time.sleep(chance.uniform(*CALM_SECONDS))
            fault = choose(chance)
            if fault(ground, chance):
                done[fault.__name__] += 1
                print(f"{done.total():4} {fault.__name__}", flush=True)
        _until_ended(ground, names)
    finally:
        clock.stop()
    verdict = judge(ground, names, done, clock)
    if not ground.delete_namespace():
        verdict.stuck.append(f"namespace {ground.namespace} does not go")
    return verdict


def _keep_busy(ground: Ground, names: list[str], chance: random.Random) -> None:
    """Apply new runs until enough are under way."""
    runs = persist(ground.runs)
    active = sum(run.get("status", {}).get("phase") not in ENDED for run in runs.values())
    for _ in range(AT_ONCE - active):
        name = f"run-{len(names):03}"
        names.append(name)
        ground.apply(name, steps=chance.randint(*STEPS))


def _until_ended(ground: Ground, names: list[str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        runs = persist(ground.runs)
        left = [n for n in names if runs.get(n, {}).get("status", {}).get("phase") not in ENDED]
        if not left:
            return
        print(f"     waiting for {len(left)}: {left[:6]}", flush=True)
        time.sleep(5)


def main() -> int:
    """The program; exit status 1 where an invariant broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    verdict = storm(Ground(), kills=given.kills, seed=given.seed)
    for kind in ("lost", "doubled", "stuck", "missing", "late"):
        for line in getattr(verdict, kind):
            print(f"{kind}: {line}")
    print(verdict)
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
