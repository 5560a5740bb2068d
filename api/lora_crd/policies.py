"""The CustomResourceDefinitions of TrainingPolicy and TrainingLedger.

A module of its own because an administrator's kinds read differently in kubectl than a run does.
"""

from typing import Any

from lora_api.cel import EXTENSION, CelRule
from lora_api.policy import POLICY_KIND, POLICY_PLURAL, TrainingPolicySpec
from lora_api.policy_ledger import LEDGER_KIND, LEDGER_PLURAL, TrainingLedgerSpec
from lora_api.policy_status import TrainingPolicyStatus
from lora_crd.resource import column, definition, names, root
from lora_crd.structural import structural_schema

POLICY_COLUMNS = [
    column(
        "Acting", '.status.conditions[?(@.type=="Acting")].status', "string", "Whether it acts."
    ),
    column("Trainings", ".status.trainings", "integer", "Runs that count for this month."),
    column("GPUs", ".status.gpusInUse", "integer", "GPUs that runs hold now."),
    column("Running", ".status.runningCount", "integer", "Runs at work now."),
    column("Waiting", ".status.waitingCount", "integer", "Runs in the queue now."),
    column("Spent", ".status.spending.amount", "string", "What this month's runs have cost."),
    column("%", ".status.spending.percent", "integer", "Share of the budget that is spent."),
    column("Age", ".metadata.creationTimestamp", "date", "Time since it was created."),
    column("Currency", ".status.spending.currency", "string", "Of the amounts.", wide=True),
    column(
        "Reset", ".status.nextReset", "string", "When the month's counts begin anew.", wide=True
    ),
]
LEDGER_COLUMNS = [
    column("Month", ".spec.month", "string", "The month (UTC) that it is of."),
    column("Age", ".metadata.creationTimestamp", "date", "Time since it was created."),
]
# Where the status is behind, or the policy is made anew, the operator finds it by the ledger.
CURRENCY_STAYS = CelRule(
    "self.spec.currency == oldSelf.spec.currency || !has(self.status) || "
    "!has(self.status.spending) || string(self.status.spending.amount) == '0'",
    "spec.currency can't change while status.spending is not 0: amounts keep the currency that "
    "they were counted in. Change it in a month that has cost nothing yet",
    field="spec.currency",
)
MONTH_STAYS = CelRule("self.month == oldSelf.month", "month is immutable", field="month")


def policy_definition() -> dict[str, Any]:
    """The CRD of TrainingPolicy as a Kubernetes object."""
    whole = root(
        "TrainingPolicy says what a namespace may train, how much, in which order and at what "
        "price. The one named default acts.",
        spec=structural_schema(TrainingPolicySpec),
        status=structural_schema(TrainingPolicyStatus),
    )
    whole[EXTENSION] = [CURRENCY_STAYS.to_schema()]
    return definition(
        naming=names(POLICY_KIND, POLICY_PLURAL, "tp"),
        root=whole,
        subresources={"status": {}},
        additionalPrinterColumns=POLICY_COLUMNS,
    )


def ledger_definition() -> dict[str, Any]:
    """The CRD of TrainingLedger as a Kubernetes object."""
    spec = structural_schema(TrainingLedgerSpec)
    spec[EXTENSION] = [MONTH_STAYS.to_schema()]
    return definition(
        naming=names(LEDGER_KIND, LEDGER_PLURAL),
        root=root(
            "TrainingLedger keeps what the runs of one namespace and month used, after the runs "
            "are gone. The operator alone writes it.",
            spec=spec,
        ),
        additionalPrinterColumns=LEDGER_COLUMNS,
    )
