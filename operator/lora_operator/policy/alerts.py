"""When money is worth a warning: a share of the budget is reached, or one run costs too much.

A module of its own because a warning is given once, as the line is crossed, and crossing is a fact
about two amounts and not about one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from lora_api.policy import TrainingPolicySpec
from lora_api.reasons import Reason
from lora_operator.policy.money import NOTHING, shown
from lora_operator.policy.months import Month


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One warning."""

    reason: Reason
    message: str


def budget_alerts(
    before: Decimal,
    after: Decimal,
    *,
    month: Month,
    policy: TrainingPolicySpec,
    is_over: bool = False,
) -> Iterator[Alert]:
    """Warnings of what was crossed between two states of one month's spending.

    Args:
        before: Spending of which was told already.
        after: Spending now.
        month: The month.
        policy: With its budget.
        is_over: Whether the month is, and its last runs still cost.
    """
    if policy.monthly_budget is None:
        return
    budget = Decimal(policy.monthly_budget.amount)
    percent = policy.monthly_budget.alert_percent
    figures = f"{shown(after, policy.currency)} of {shown(budget, policy.currency)}"
    name = f"budget of {month}" if is_over else "monthly budget"
    until = "of that month is started" if is_over else f"is started until {month.reset:%Y-%m-%d}"
    if _crosses(before, after, budget * percent / 100):
        yield Alert(
            reason=Reason.BUDGET_ALERT,
            message=f"{percent} % of the {name} is reached: {figures} are spent.",
        )
    if _crosses(before, after, budget):
        yield Alert(
            reason=Reason.BUDGET_EXHAUSTED,
            message=f"The {name} is spent: {figures}. No further run {until}.",
        )


def cost_alert(before: Decimal, after: Decimal, policy: TrainingPolicySpec) -> Alert | None:
    """A warning where one run's cost passed what one run should cost."""
    if policy.max_cost_per_training is None:
        return None
    limit = Decimal(policy.max_cost_per_training)
    if not before <= limit < after:
        return None
    return Alert(
        reason=Reason.TRAINING_EXPENSIVE,
        message=(
            f"The run has cost {shown(after, policy.currency)}, more than the "
            f"{shown(limit, policy.currency)} of the policy's maxCostPerTraining. It goes on."
        ),
    )


def _crosses(before: Decimal, after: Decimal, line: Decimal) -> bool:
    return before < line <= after and after > NOTHING
