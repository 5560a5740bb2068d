"""Whether a run may be admitted at all, by what its namespace and user have used.

A module of its own because these are the refusals that a user reads, and each must say how much of
what is left and when that changes. What one run alone shows to be wrong, the API server has refused
before.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from lora_api.policy import TrainingPolicySpec
from lora_api.reasons import Reason
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.money import NOTHING, cost_of, price_of_product, shown
from lora_operator.policy.months import Month
from lora_operator.policy.speed import of_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A refusal, with the sentence for the user."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A run that asks to be admitted."""

    user: str
    recipe: str
    gpus: int
    steps: int | None
    """Optimiser steps; None where epochs leave them open."""
    step_work: int = 1
    """What a step works through, as `speed.step_work` has it."""

    @property
    def work(self) -> int | None:
        """What all its steps work through, on each GPU."""
        return None if self.steps is None else self.steps * self.step_work


def estimated_cost(run: Request, policy: TrainingPolicySpec, ledger: Ledger) -> Decimal | None:
    """What the run is expected to cost: what its recipe needed here, by its work and its GPUs.

    There is no node yet, so of the GPUs that were measured the dearest one counts, and the highest
    price where a kind of GPU has none of its own.

    Returns:
        None where too few runs were measured, or the number of steps is open.
    """
    if not run.gpus:
        return NOTHING
    work = run.work
    if work is None:
        return None
    found = [
        cost_of(run.gpus * seconds, price_of_product(policy.prices, product))
        for product, speed in of_recipe(ledger.speeds, run.recipe).items()
        if speed.is_trusted and (seconds := speed.seconds_for(work)) is not None
    ]
    return max(found, default=None)


def refusal(run: Request, policy: TrainingPolicySpec, ledger: Ledger) -> Refusal | None:
    """Why the run is refused, or None where it is admitted.

    Args:
        run: What asks.
        policy: Of its namespace.
        ledger: Of the month in which the run was created. The run itself is not in it.
    """
    return (
        _monthly_limit(run, policy, ledger)
        or quota_refusal(run.gpus, policy)
        or spent_budget(policy, ledger)
        or _estimate(run, policy, ledger)
    )


def spent_budget(policy: TrainingPolicySpec, ledger: Ledger) -> Refusal | None:
    """Whether the month's money is gone; asked again before a waiting run is let go."""
    if policy.monthly_budget is None:
        return None
    budget = Decimal(policy.monthly_budget.amount)
    if ledger.spent < budget:
        return None
    return Refusal(
        reason=Reason.BUDGET_EXHAUSTED,
        message=(
            f"The namespace's monthly budget of {shown(budget, policy.currency)} is spent "
            f"({shown(ledger.spent, policy.currency)} so far). {_resets(ledger.month)}"
        ),
    )


def _monthly_limit(run: Request, policy: TrainingPolicySpec, ledger: Ledger) -> Refusal | None:
    limit = policy.monthly_trainings_per_user
    if limit is None or ledger.places.get(run.user, 0) < limit:
        return None
    return Refusal(
        reason=Reason.MONTHLY_LIMIT_REACHED,
        message=(
            f"You've reached your monthly limit of {limit} LoRAs. "
            "Limit resets on the first of each month."
        ),
    )


def quota_refusal(gpus: int, policy: TrainingPolicySpec) -> Refusal | None:
    """A run that can never start must not wait for ever; asked again whenever runs are let go."""
    limits = (
        (policy.max_concurrent_gpus, gpus, "GPUs at once", "maxConcurrentGPUs"),
        (
            policy.max_concurrent_gpus_per_user,
            gpus,
            "GPUs at once per user",
            "maxConcurrentGPUsPerUser",
        ),
        (policy.max_concurrent_trainings, 1, "trainings at once", "maxConcurrentTrainings"),
        (
            policy.max_concurrent_trainings_per_user,
            1,
            "trainings at once per user",
            "maxConcurrentTrainingsPerUser",
        ),
    )
    for limit, needed, what, field in limits:
        if limit is not None and needed > limit:
            return Refusal(
                reason=Reason.QUOTA_TOO_SMALL,
                message=(
                    f"The run needs {needed} and the namespace's policy allows {limit} {what} "
                    f"({field}), so it could never start. Create it again with less, or ask for "
                    "the policy to be raised."
                ),
            )
    return None


def _estimate(run: Request, policy: TrainingPolicySpec, ledger: Ledger) -> Refusal | None:
    estimate = estimated_cost(run, policy, ledger)
    if policy.monthly_budget is None or not estimate:
        return None
    budget = Decimal(policy.monthly_budget.amount)
    left = budget - ledger.spent - ledger.promised
    if estimate <= left:
        return None
    currency = policy.currency
    return Refusal(
        reason=Reason.ESTIMATE_ABOVE_BUDGET,
        message=(
            f"The run is estimated to cost {shown(estimate, currency)} ({run.steps} steps on "
            f"{run.gpus} GPU(s), at the measured speed of {run.recipe}), and "
            f"{shown(max(NOTHING, left), currency)} of the monthly budget of "
            f"{shown(budget, currency)} are left: {shown(ledger.spent, currency)} are spent, "
            f"{shown(ledger.promised, currency)} are promised to runs under way. Create it again "
            f"with fewer steps. {_resets(ledger.month)}"
        ),
    )


def _resets(month: Month) -> str:
    return f"The budget begins anew at {_instant(month.reset)}."


def _instant(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")
