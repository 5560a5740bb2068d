"""What is seen of a run that is being cancelled, and what becomes of what it had trained."""

from datetime import timedelta

from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import NO_CHECKPOINT, a_bad_result, a_good_result
from tests.sights import seen
from tests.unit.rows_held_back import IN_QUEUE, TRAINING
from tests.unit.rows_under_way import SCHEDULER, Row

from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase
from lora_operator.state.views import Refusal

KEEP_PARTIAL = a_training().cancelled(keep_partial=True)
STOPPED = seen(KEEP_PARTIAL).with_claim().after(TRAINING).of(KEEP_PARTIAL)
# Their Jobs are a minute old.
SOON = KEEP_PARTIAL.with_spec("limits.creationTimeoutSeconds", 60)
STOPPED_SOON = STOPPED.of(SOON)
REFUSED_AT_LAST = STOPPED.job_refused(Refusal.CREATION_REFUSED, "exceeded quota: jobs")
WAITED_BEFORE = seen().with_pods(a_pod().unschedulable(SCHEDULER))

CANCELLED: dict[str, Row] = {
    "a cancelled run ends once its Job is gone, and says how far it came": Row(
        sight=seen(a_training().cancelled())
        .with_claim()
        .after(TRAINING)
        .of(a_training().cancelled()),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("step 40 of 100",),
    ),
    "a run that is being cancelled waits for its pod": Row(
        sight=TRAINING.of(a_training().cancelled()).after(TRAINING).of(a_training().cancelled()),
        phase=Phase.TRAINING,
        reason=Reason.CANCELLING,
        says=("Job anna-train",),
    ),
    "a cancelled run's partial LoRA is stored before the run ends": Row(
        sight=STOPPED,
        phase=Phase.TRAINING,
        reason=Reason.CANCELLING,
        says=("Job anna-partial", "last checkpoint"),
    ),
    "where it lies is told": Row(
        sight=STOPPED.with_partial_job(
            a_job().complete(), a_pod().named("anna-partial-x").ended(0, a_good_result())
        ),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("step 100", "s3://models/anna/model.safetensors"),
    ),
    "a partial LoRA that can't be stored stays in the workspace, and why": Row(
        sight=STOPPED.with_partial_job(
            a_job().failed(),
            a_pod().named("anna-partial-x").ended(75, a_bad_result("X", "No answer.")),
        ),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("No answer.", "claim anna-workspace"),
    ),
    "one whose Job completed is stored, though its pod took the result along": Row(
        sight=STOPPED.with_partial_job(a_job().complete()),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("is stored under s3://models/anna/partial/", "result was lost"),
    ),
    "a quota that refuses its Job is borne as any other": Row(
        sight=STOPPED.job_refused(Refusal.CREATION_REFUSED, "exceeded quota: jobs"),
        phase=Phase.PENDING,
        reason=Reason.CREATION_REFUSED,
        says=("being cancelled", "exceeded quota: jobs", "creationTimeoutSeconds"),
    ),
    "also where the run had waited for something else for long": Row(
        sight=REFUSED_AT_LAST.after(WAITED_BEFORE, now=NOW - timedelta(seconds=3600)),
        phase=Phase.PENDING,
        reason=Reason.CREATION_REFUSED,
        says=("exceeded quota: jobs",),
    ),
    "but does not hold the end up for longer than the spec allows": Row(
        sight=REFUSED_AT_LAST.after(REFUSED_AT_LAST, now=NOW - timedelta(seconds=3600)),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("exceeded quota: jobs", "claim anna-workspace"),
    ),
    "a Job that stores a partial LoRA and is in Kueue's queue says so, with Kueue's words": Row(
        sight=STOPPED.with_partial_job(IN_QUEUE).held_by_kueue("QuotaReserved: no cpu left"),
        phase=Phase.TRAINING,
        reason=Reason.QUEUED,
        says=("being cancelled", "Job anna-partial", "queue gpus: QuotaReserved: no cpu left"),
    ),
    "one that is suspended again after it was let go says that": Row(
        sight=STOPPED.with_partial_job(a_job().suspended().let_go_at(1)),
        phase=Phase.TRAINING,
        reason=Reason.HELD_ELSEWHERE,
        says=("being cancelled", "Job anna-partial was suspended again"),
    ),
    "and is not waited for for ever": Row(
        sight=STOPPED_SOON.with_partial_job(a_job().suspended().let_go_at(1)),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("could not be stored", "creationTimeoutSeconds", "was suspended again"),
    ),
    "nor is a queue": Row(
        sight=STOPPED_SOON.with_partial_job(IN_QUEUE),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("could not be stored", "queue gpus", "claim anna-workspace"),
    ),
    "a run that was cancelled before its first checkpoint has nothing to keep": Row(
        sight=STOPPED.with_partial_job(
            a_job().complete(), a_pod().named("anna-partial-x").ended(0, NO_CHECKPOINT)
        ),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("No checkpoint had been written",),
    ),
    "nor has one that never started": Row(
        sight=seen(a_training().cancelled(keep_partial=True)).with_claim(),
        phase=Phase.CANCELLED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.CANCELLED,
        says=("No checkpoint had been written",),
    ),
    "a run that completed before it could be cancelled is Completed": Row(
        sight=seen(a_training().cancelled())
        .with_job(a_job().complete())
        .with_pods(a_pod().ended(0, a_good_result())),
        phase=Phase.COMPLETED,
        condition=ConditionType.SUCCEEDED,
        truth="True",
        reason=Reason.COMPLETED,
    ),
}
