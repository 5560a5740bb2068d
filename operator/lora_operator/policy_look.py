"""Between one run as it is observed and its namespace's gate: what it asks, and what it is told.

A module of its own because the gate knows nothing of Jobs and pods, and the rules nothing of other
runs.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from lora_api.policy import TrainingPolicySpec
from lora_api.policy_ledger import RunState
from lora_api.reasons import Reason
from lora_api.settings import DEFAULT_STEPS
from lora_api.status import CostStatus, Phase
from lora_api.training import LoRATrainingSpec
from lora_operator.departures import Known
from lora_operator.gpu_meter import read_meter
from lora_operator.policy import gate
from lora_operator.policy.alerts import cost_alert
from lora_operator.policy.defaults import priority_of
from lora_operator.policy.ledger import FINAL, Sighting
from lora_operator.policy.limits import Refusal, Request, quota_refusal, spent_budget
from lora_operator.policy.money import NOTHING, written
from lora_operator.policy.sightings import sighting
from lora_operator.policy.space import Applicant, Deferred, Namespace
from lora_operator.policy.speed import step_work
from lora_operator.policy.turns import held_by_quota, held_for_money
from lora_operator.state.decision import is_terminal
from lora_operator.state.views import Observed, Permission, PolicyWord, Run

Answer = Refusal | Deferred | None
UNASKED = PolicyWord(
    permission=Permission.AWAITED,
    reason=Reason.QUEUED,
    message="The run is about to join the queue of its namespace.",
)
"""Said of a run that the gate has not let go, and of which it has nothing to say."""
_PREEMPTED = (
    "A run of a higher priority needs the GPUs; the trainer writes a checkpoint, and the run goes "
    "on from there when it is its turn again."
)


def look_at(
    space: Namespace, seen: Observed, *, price: Decimal, now: datetime, product: str = ""
) -> tuple[Namespace, Answer]:
    """Bring the gate up to what is seen of a run.

    Args:
        space: The gate.
        seen: The run, its Job and pods.
        price: Of a GPU-hour on the run's node.
        now: The present.
        product: Name of the GPUs of a run that has completed, if it is known.

    Returns:
        The gate, and why the run may not start if that is so.
    """
    run, spec = seen.run, seen.run.spec
    if spec is None or run.status_fault or run.deleting:
        return bill(space, seen, price=price, now=now), None
    if is_terminal(run.status):
        if keeps_gpus(space, seen, now):
            # Given up before its pod has ended: the GPUs are free, and paid for, once it is gone.
            space = gate.recall(space, applicant_of(run, spec, space.policy))
            return bill(space, seen, price=price, now=now), None
        sight = sighting(spec, run.status, per_gpu_hour=price, product=product)
        return _noted_as_over(space, run, _metered(sight, seen, now)), None
    uploads = run.status.upload is not None
    if seen.holds_nothing and (uploads or spec.suspend or run.uid in space.preempted):
        space = bill(space, seen, price=price, now=now)
        if uploads:
            space = gate.stand_aside(space, run.uid)
        else:
            space = gate.pause(space, run.uid, created_at=run.created_at)
        if uploads or spec.suspend:
            return space, None
    known = space.ledger_of(run.created_at).runs.get(run.uid)
    if known is not None and known.state is RunState.RETURNED:
        too_large = quota_refusal(spec.resources.gpus, space.policy)
        unpaid = spent_budget(space.policy, space.ledger_of(run.created_at))
        return space, too_large or unpaid or _withdrawn()
    applicant = applicant_of(run, spec, space.policy)
    if run.status.phase is Phase.SUSPENDED:
        applicant = replace(applicant, resumed_at=now.replace(microsecond=0))
    is_under_way = seen.job is not None and not seen.job.suspended
    if known is None and (is_under_way or seen.live_pods):
        space = gate.adopt(space, applicant)
    space, answer = gate.ask(space, applicant)
    if answer is None:
        sight = _metered(sighting(spec, run.status, per_gpu_hour=price), seen, now)
        if run.uid in space.waiting:
            # The status of a run that has just made room still tells what it did before.
            sight = replace(sight, state=RunState.WAITING)
        space = gate.note(space, run.uid, sight, created_at=run.created_at)
        answer = held_by_quota(space, run.uid) or held_for_money(space, run.uid)
    return space, answer


def bill(space: Namespace, seen: Observed, *, price: Decimal, now: datetime) -> Namespace:
    """Pay for what a run has held until now; where it stands is left to a look.

    Also for a run that is being deleted: its pods have their GPUs until they are gone.
    """
    meter = read_meter(seen, now)
    return gate.bill(
        space,
        seen.run.uid,
        gpu_seconds=meter.gpu_seconds,
        per_gpu_hour=price,
        created_at=seen.run.created_at,
    )


def keeps_gpus(space: Namespace, seen: Observed, now: datetime) -> bool:
    """Whether a run that was let go has a pod on a node, whatever its own status says."""
    entry = space.ledger_of(seen.run.created_at).runs.get(seen.run.uid)
    is_let_go = entry is not None and entry.state is RunState.RUNNING
    return is_let_go and read_meter(seen, now).gpus > 0


def is_dear(space: Namespace, seen: Observed) -> bool:
    """Whether the run's cost has passed a line of the policy's of which nobody was told."""
    return _alert(space, seen.run, _cost(space, seen.run)) is not None


def node_of(seen: Observed) -> str | None:
    """The node that a run is on, or was last."""
    pod = seen.latest_pod
    return (pod.node if pod is not None else None) or seen.run.status.node_name


def known_of(seen: Observed, price: Decimal, now: datetime) -> Known:
    """What is remembered of a run once its object is gone."""
    return Known(
        key=seen.run.key,
        uid=seen.run.uid,
        created_at=seen.run.created_at,
        meter=read_meter(seen, now),
        price=price,
        jobs=frozenset(job.uid for job in (seen.job, *seen.other_jobs) if job is not None),
    )


def makes_room(seen: Observed) -> bool:
    """Whether a run that was let go is being suspended for another, by what is left of that.

    One whose Job is yet to be resumed looks the same, but for its status, which says Queued.
    """
    spec, job = seen.run.spec, seen.job
    is_ours = spec is not None and not spec.suspend and job is not None and job.queue is None
    is_suspended = job is not None and job.suspended
    return is_ours and is_suspended and seen.run.status.phase is not Phase.QUEUED


def applicant_of(run: Run, spec: LoRATrainingSpec, policy: TrainingPolicySpec) -> Applicant:
    """The run as it asks to be admitted."""
    work = spec.optimization
    steps = work.steps if work.epochs is None else None
    return Applicant(
        uid=run.uid,
        name=run.key.name,
        request=Request(
            user=spec.user or "",
            recipe=spec.recipe,
            gpus=spec.resources.gpus,
            steps=DEFAULT_STEPS if steps is None and work.epochs is None else steps,
            step_work=step_work(spec),
        ),
        created_at=run.created_at,
        priority=priority_of(spec, policy),
        # Kueue lets its Jobs go by the field that we would suspend them by. Who is trained or has
        # ended gives its GPUs back anyway.
        preemptible=run.queue is None and run.status.upload is None and not is_terminal(run.status),
        started_at=run.status.started_at or run.status.phase_started_at,
    )


def word_of(space: Namespace, run: Run, answer: Answer, place: str) -> PolicyWord:
    """What the run is told. Only who is known to be at work may go on; all others wait.

    A word is read by a look that may see more of the run than the gate did: that it was resumed
    while the ledger was written, for one.

    Args:
        space: The gate, after all that may start was let go.
        run: The run.
        answer: As returned by `look_at`.
        place: Its place in the queue in words, if it has one.
    """
    cost = _cost(space, run)
    said = PolicyWord(policy=space.policy, cost=cost, alert=_alert(space, run, cost))
    if isinstance(answer, Refusal):
        return replace(
            said, permission=Permission.DENIED, reason=answer.reason, message=answer.message
        )
    if run.uid in space.preempted:
        return replace(
            said, permission=Permission.WITHDRAWN, reason=Reason.SUSPENDING, message=_PREEMPTED
        )
    if run.uid in space.working or is_terminal(run.status) or run.status.upload is not None:
        return said
    message = answer.message if isinstance(answer, Deferred) else place
    return replace(
        said,
        permission=Permission.AWAITED,
        reason=Reason.QUEUED,
        message=message or UNASKED.message,
        is_in_queue=run.uid in space.waiting,
    )


def _noted_as_over(space: Namespace, run: Run, sight: Sighting) -> Namespace:
    is_accounted = run.status.cost is not None and run.status.cost.final
    return gate.note(space, run.uid, sight, created_at=run.created_at, accounted=is_accounted)


def _metered(sight: Sighting, seen: Observed, now: datetime) -> Sighting:
    return replace(sight, gpu_seconds=read_meter(seen, now).gpu_seconds)


def _cost(space: Namespace, run: Run) -> CostStatus | None:
    ledger = space.ledger_of(run.created_at)
    entry = ledger.runs.get(run.uid)
    if entry is None:
        return run.status.cost
    return CostStatus(
        amount=written(entry.cost),
        currency=ledger.currency or space.policy.currency,
        final=is_terminal(run.status) and entry.state in FINAL,
    )


def _alert(space: Namespace, run: Run, cost: CostStatus | None) -> str | None:
    """Whether the cost passed the policy's line since it was last written."""
    if cost is None:
        return None
    before = Decimal(run.status.cost.amount) if run.status.cost is not None else NOTHING
    alert = cost_alert(before, Decimal(cost.amount), space.policy)
    return None if alert is None else alert.message


def _withdrawn() -> Refusal:
    return Refusal(
        reason=Reason.BUDGET_EXHAUSTED,
        message="While the run waited, the monthly budget was spent, or a limit fell below what it "
        "needs. Create it again to be queued.",
    )
