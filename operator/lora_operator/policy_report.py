"""The status of policies, and warnings about a namespace's money.

A module of its own because it only ever tells: no decision waits for it, and none reads it back.
"""

import hashlib
from datetime import datetime
from decimal import Decimal

from pydantic import ValidationError

from lora_api import API_VERSION
from lora_api.policy import POLICY_KIND, TrainingPolicySpec
from lora_api.policy_status import TrainingPolicyStatus
from lora_api.status import Condition
from lora_operator.errors import AlreadyExistsError, NotFoundError, RefusedError
from lora_operator.kube.client import KubeClient, Object
from lora_operator.kube.resources import EVENTS, POLICIES
from lora_operator.policy.alerts import Alert, budget_alerts
from lora_operator.policy.faults import PolicyFaultError
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.money import NOTHING, written
from lora_operator.policy.months import Month
from lora_operator.policy.queue import standings
from lora_operator.policy.space import Namespace
from lora_operator.policy.usage import acting_condition, usage
from lora_operator.state.text import clip
from lora_operator.status import merge_patch


class PolicyReporter:
    """Writes a policy's status where it differs, and tells events."""

    def __init__(self, client: KubeClient) -> None:
        """Use a guarded client."""
        self._client = client

    async def report(self, body: Object, space: Namespace, now: datetime) -> None:
        """Tell how the namespace stands against the policy that acts."""
        old = _read(body)
        ledger = space.ledger_of(now)
        previous = space.ledgers.get(ledger.month.previous)
        waiting, working = tuple(space.waiting.values()), tuple(space.working.values())
        new = usage(
            generation=body["metadata"].get("generation", 1),
            acting=acting_condition(body["metadata"]["name"], since=_since(old, now, "True")),
            policy=space.policy,
            ledger=ledger,
            previous=previous,
            queue=standings(waiting, working, space.policy, now),
            working=working,
        )
        # The status is what tells later looks that a warning was given, so it comes last: a warning
        # that is given twice has one name, and one that is not given would be lost.
        for month in (ledger,) if previous is None else (previous, ledger):
            await self._warn(body, old, space.policy, month, now)
        await self._write(body, old, new)

    async def report_idle(self, body: Object, now: datetime) -> None:
        """Tell a policy of another name that it does not act."""
        old = _read(body)
        condition = acting_condition(body["metadata"]["name"], since=_since(old, now, "False"))
        generation = body["metadata"].get("generation", 1)
        new = TrainingPolicyStatus(observed_generation=generation, conditions=(condition,))
        await self._write(body, old, new)

    async def report_fault(self, body: Object, fault: PolicyFaultError, now: datetime) -> None:
        """Tell why the policy that acts can't."""
        old = _read(body)
        condition = Condition(
            type="Acting",
            status="False",
            reason=fault.cause,
            message=clip(fault.message),
            last_transition_time=_since(old, now, "False"),
        )
        await self._write(body, old, old.model_copy(update={"conditions": (condition,)}))

    async def _warn(
        self,
        body: Object,
        old: TrainingPolicyStatus,
        policy: TrainingPolicySpec,
        ledger: Ledger,
        now: datetime,
    ) -> None:
        """Warn of the lines that a month's spending crossed since its policy's status was told."""
        if policy.monthly_budget is None or ledger.currency not in {None, policy.currency}:
            return
        before = _told_until(old, ledger.month, written(Decimal(policy.monthly_budget.amount)))
        alerts = budget_alerts(
            before,
            ledger.spent,
            month=ledger.month,
            policy=policy,
            is_over=ledger.month.reset <= now,
        )
        for alert in alerts:
            await self._tell(body, alert, ledger.month, now)

    async def _write(
        self, body: Object, old: TrainingPolicyStatus, new: TrainingPolicyStatus
    ) -> None:
        patch = merge_patch(_dump(old), _dump(new))
        if not patch:
            return
        meta = body["metadata"]
        try:
            await self._client.patch_status(
                POLICIES,
                meta["namespace"],
                meta["name"],
                {"metadata": {"uid": meta["uid"]}, "status": patch},
            )
        except NotFoundError:
            return

    async def _tell(self, body: Object, alert: Alert, month: Month, now: datetime) -> None:
        meta = body["metadata"]
        budget = body.get("spec", {}).get("monthlyBudget", {}).get("amount")
        told = f"{meta['uid']} {alert.reason} {budget} {month}"
        digest = hashlib.sha256(told.encode()).hexdigest()
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{digest[:16]}", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": POLICY_KIND,
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "type": "Warning",
            "reason": alert.reason,
            "message": alert.message,
            "source": {"component": "lora-operator"},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._client.create(EVENTS, meta["namespace"], event)
        except (AlreadyExistsError, RefusedError):
            return


def _read(body: Object) -> TrainingPolicyStatus:
    try:
        return TrainingPolicyStatus.model_validate(body.get("status") or {})
    except ValidationError:
        return TrainingPolicyStatus()


def _told_until(old: TrainingPolicyStatus, month: Month, budget: str) -> Decimal:
    """Spending up to which warnings were given; none under another budget, or in another month."""
    told = old.spending if old.month == str(month) else None
    if old.month == str(month.next):
        told = old.previous_spending
    return Decimal(told.amount) if told is not None and told.budget == budget else NOTHING


def _since(old: TrainingPolicyStatus, now: datetime, status: str) -> datetime:
    known = now
    if old.conditions and old.conditions[0].status == status:
        known = old.conditions[0].last_transition_time
    return known.replace(microsecond=0)


def _dump(status: TrainingPolicyStatus) -> Object:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
