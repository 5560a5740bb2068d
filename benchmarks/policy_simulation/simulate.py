"""`make simulate-policy SEED=1`: a month of 10,000 runs and 200 users, its figures and a plot."""

import argparse
import json
import statistics
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import matplotlib as mpl
from benchmarks.policy_simulation.month import Month
from benchmarks.policy_simulation.outcome import Outcome
from benchmarks.policy_simulation.scale import decision_microseconds
from benchmarks.policy_simulation.workload import a_month

from lora_api.policy import MAX_PRIORITY, TrainingPolicySpec
from lora_operator.policy.money import NOTHING

ROOT = Path(__file__).parents[2]
BUDGET = Decimal(8000)
POLICY = TrainingPolicySpec.model_validate(
    {
        "maxConcurrentGPUs": 16,
        "maxConcurrentTrainingsPerUser": 3,
        "monthlyTrainingsPerUser": 150,
        "monthlyBudget": {"amount": str(BUDGET)},
        "prices": {
            "perGpuHour": "2.00",
            "byNodeLabel": [{"key": "product", "value": "L4", "perGpuHour": "0.80"}],
        },
        "queue": {"agingSeconds": 600, "backfillSeconds": 1800, "preemption": "LowerPriority"},
    }
)


def figures(outcome: Outcome) -> dict[str, Any]:
    """The month in numbers; the same seed gives the same ones, but for the times."""
    errors = sorted(abs(came - foretold) / 60 for foretold, came in outcome.estimates)
    signed = [(came - foretold) / 60 for foretold, came in outcome.estimates]
    costs = sorted(abs(came - told) / came * 100 for told, came in outcome.costs if came)
    waits = sorted(seconds / 60 for seconds in outcome.waits)
    ninth = len(outcome.decision_seconds) // 10
    return {
        "seed": outcome.seed,
        "runs": outcome.runs,
        "users": outcome.users,
        "started": len(outcome.waits),
        "completed": outcome.completed,
        "failed": outcome.failed,
        "cancelled": outcome.cancelled,
        "deleted": outcome.deleted,
        "madeRoom": outcome.preempted,
        "suspendedByTheirUsers": outcome.suspended,
        "changedTheirClass": outcome.reclassed,
        "heldForMoneyAtTheEnd": outcome.held_for_money,
        "refusedByMonthlyLimit": outcome.limit_refusals,
        "refusedByBudget": outcome.budget_refusals,
        "restartsFromTheLedger": outcome.restarts,
        "mostGpusInUse": outcome.most_gpus,
        "longestQueue": outcome.longest_queue,
        "waitMinutes": {"median": _at(waits, 0.5), "p99": _at(waits, 0.99), "max": _at(waits, 1)},
        "passes": {
            "backfillPairs": outcome.backfilled,
            "youngestPasserMinutes": round(outcome.latest_passer / 60, 1),
            "boundMinutesForPriority0": (MAX_PRIORITY + 1) * POLICY.queue.aging_seconds // 60,
        },
        "budget": {
            "spent": str(outcome.spent),
            "amount": str(BUDGET),
            "mostAllowedAbove": str(outcome.at_work_when_spent),
        },
        "estimates": {
            "number": len(errors),
            "absoluteErrorMinutes": {"median": _at(errors, 0.5), "p90": _at(errors, 0.9)},
            "meanErrorMinutes": round(statistics.fmean(signed), 1) if signed else None,
        },
        "costEstimates": {
            "number": len(costs),
            "absoluteErrorPercent": {
                "median": _at([float(each) for each in costs], 0.5),
                "p90": _at([float(each) for each in costs], 0.9),
            },
        },
        "decisionMicroseconds": {
            "mean": _microseconds(outcome.decision_seconds),
            "firstTenth": _microseconds(outcome.decision_seconds[:ninth]),
            "lastTenth": _microseconds(outcome.decision_seconds[-ninth:]),
        },
        "decisionMicrosecondsByFinishedRuns": decision_microseconds(POLICY),
    }


def plot(outcome: Outcome, path: Path) -> None:
    """Foretold against real waits, and how often an estimate is wrong by how much."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of its backend

    foretold = [seconds / 60 for seconds, _ in outcome.estimates]
    came = [seconds / 60 for _, seconds in outcome.estimates]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    left.scatter(foretold, came, s=6, alpha=0.4)
    most = max([*foretold, *came, 1.0])
    left.plot([0, most], [0, most], color="black", linewidth=0.8)
    left.set(xlabel="foretold wait (min)", ylabel="wait as it came (min)")
    left.set_title(f"{len(foretold)} estimates, seed {outcome.seed}")
    right.hist([real - told for told, real in zip(foretold, came, strict=True)], bins=60)
    right.set(xlabel="error (min): late is above 0", ylabel="estimates")
    right.set_title("Errors: later arrivals and unknown run times")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _at(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def _microseconds(seconds: list[float]) -> float | None:
    return round(statistics.fmean(seconds) * 1e6, 1) if seconds else None


def main() -> None:
    """Plays the month, and writes figures and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--out", type=Path, default=ROOT / "build/simulate-policy")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    jobs = a_month(arguments.seed, runs=arguments.runs, users=arguments.users)
    outcome = Month(jobs, POLICY, seed=arguments.seed, users=arguments.users).play()
    found = figures(outcome)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "figures.json").write_text(json.dumps(found, indent=2) + "\n")
    plot(outcome, arguments.out / "estimates.png")
    print(json.dumps(found, indent=2))
    print(
        f"seed {outcome.seed}: {outcome.runs} runs of {outcome.users} users in "
        f"{time.perf_counter() - begun:.0f} s; no limit was passed, nobody starved, the budget was "
        f"passed by {max(NOTHING, outcome.spent - BUDGET):.2f} (allowed: "
        f"{outcome.at_work_when_spent:.2f}); plot in {arguments.out / 'estimates.png'}"
    )


if __name__ == "__main__":
    main()
