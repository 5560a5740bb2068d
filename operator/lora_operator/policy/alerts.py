"""When money is worth a warning: a share of the budget is reached, or one run costs too much.

A module of its own because a warning is given once, as the line is crossed, and crossing is a fact
about two ledgers and not about one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from lora_api.policy import TrainingPolicySpec
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.money import NOTHING, shown


class AlertReason(StrEnum):
    """What is warned of."""

    BUDGET_ALERT = "BudgetAlert"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    TRAINING_EXPENSIVE = "TrainingExpensive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One warning."""

    reason: AlertReason
    message: str


def budget_alerts(before: Ledger, after: Ledger, policy: TrainingPolicySpec) -> Iterator[Alert]:
    """Warnings of what was crossed between two states of one month's ledger."""
    if policy.monthly_budget is None:
        return
    budget = Decimal(policy.monthly_budget.amount)
    percent = policy.monthly_budget.alert_percent
    figures = f"{shown(after.spent, policy.currency)} of {shown(budget, policy.currency)}"
    if _crosses(before.spent, after.spent, budget * percent / 100):
        yield Alert(
            reason=AlertReason.BUDGET_ALERT,
            message=f"{percent} % of the monthly budget is reached: {figures} are spent.",
        )
    if _crosses(before.spent, after.spent, budget):
        yield Alert(
            reason=AlertReason.BUDGET_EXHAUSTED,
            message=f"The monthly budget is spent: {figures}. No further run is started until "
            f"{after.month.reset:%Y-%m-%d}.",
        )


def cost_alert(before: Decimal, after: Decimal, policy: TrainingPolicySpec) -> Alert | None:
    """A warning where one run's cost passed what one run should cost."""
    if policy.max_cost_per_training is None:
        return None
    limit = Decimal(policy.max_cost_per_training)
    if not before <= limit < after:
        return None
    return Alert(
        reason=AlertReason.TRAINING_EXPENSIVE,
        message=(
            f"The run has cost {shown(after, policy.currency)}, more than the "
            f"{shown(limit, policy.currency)} of the policy's maxCostPerTraining. It goes on."
        ),
    )


def _crosses(before: Decimal, after: Decimal, line: Decimal) -> bool:
    return before < line <= after and after > NOTHING
