"""What is seen of a run that is held back, cancelled, or waits too long, and what is then said.

A module of its own because here the user's wish, a queue or a limit decides, and not the trainer.
"""

from datetime import timedelta

from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import NO_CHECKPOINT, a_bad_result, a_good_result
from tests.sights import seen
from tests.unit.rows_under_way import SCHEDULER, Row

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase
from lora_operator.state.views import Refusal

TRAINING = seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40)
SUSPENDED = a_training().suspended()
KILLED_POD = (
    "Container trainer for pod studio/anna-train-x1 failed with exit code 137 matching FailJob "
    "rule at index 2"
)
QUEUED = a_training().queued_in("gpus")
TAKEN_ALONG = seen().with_job(a_job().complete())
IN_QUEUE = a_job().queued_in("gpus").suspended()
NOT_STORED = a_pod().ended(
    76, a_bad_result(Reason.UPLOAD_FAILED, "s3://models does not answer.", retryable=True)
)
NOT_STORED_AT_LAST = (
    seen()
    .with_job(a_job().failed("BackoffLimitExceeded").with_failed_pods(4))
    .with_pods(NOT_STORED)
)
KEEP_PARTIAL = a_training().cancelled(keep_partial=True)
STOPPED = seen(KEEP_PARTIAL).with_claim().after(TRAINING).of(KEEP_PARTIAL)
# Their Jobs are a minute old.
SOON = KEEP_PARTIAL.with_spec("limits.creationTimeoutSeconds", 60)
STOPPED_SOON = STOPPED.of(SOON)
REFUSED_AT_LAST = STOPPED.job_refused(Refusal.CREATION_REFUSED, "exceeded quota: jobs")
WAITED_BEFORE = seen().with_pods(a_pod().unschedulable(SCHEDULER))
TRYING_AGAIN = NOT_STORED_AT_LAST.settled()
MORE_MEMORY = a_training().with_memory("3Gi").with_spec("resources.memoryOnRetry", "5Gi")
OOM = a_pod().ended(137, "", "OOMKilled")

LIFECYCLE: dict[str, Row] = {
    "a run that is suspended from the start is held back": Row(
        sight=seen(SUSPENDED),
        phase=Phase.SUSPENDED,
        condition=ConditionType.SUSPENDED,
        truth="True",
        reason=Reason.SUSPENDED,
        says=("before the training began", "unset it"),
    ),
    "a trainer that is being suspended keeps its phase while it writes its checkpoint": Row(
        sight=TRAINING.of(SUSPENDED).after(TRAINING),
        phase=Phase.TRAINING,
        reason=Reason.SUSPENDING,
        says=("writes a checkpoint",),
    ),
    "a suspended run tells the step it stopped at": Row(
        sight=seen().with_job(a_job().suspended()).of(SUSPENDED).after(TRAINING).of(SUSPENDED),
        phase=Phase.SUSPENDED,
        condition=ConditionType.SUSPENDED,
        truth="True",
        reason=Reason.SUSPENDED,
        says=("step 40 of 100",),
    ),
    "a run whose Job somebody suspended by hand goes on": Row(
        sight=seen().with_job(a_job().suspended()),
        phase=Phase.PENDING,
        reason=Reason.POD_PENDING,
        says=("being resumed",),
    ),
    "a Job that is suspended again after it was let go is not fought over": Row(
        sight=seen().with_job(a_job().suspended().let_go_at(1)),
        phase=Phase.SUSPENDED,
        condition=ConditionType.SUSPENDED,
        truth="True",
        reason=Reason.HELD_ELSEWHERE,
        says=("anna-train", "manageJobsWithoutQueueName", "kueue.x-k8s.io/queue-name"),
    ),
    "where Kueue holds it though the run names no queue, Kueue is quoted": Row(
        sight=seen()
        .with_job(a_job().suspended().let_go_at(1))
        .held_by_kueue("QuotaReserved: the workload has no queue"),
        phase=Phase.QUEUED,
        condition=ConditionType.RUNNING,
        reason=Reason.QUEUED,
        says=("the workload has no queue", "kueue.x-k8s.io/queue-name"),
    ),
    "after a change of the spec it is let go once more": Row(
        sight=seen().with_job(a_job().suspended().let_go_at(0)),
        phase=Phase.PENDING,
        reason=Reason.POD_PENDING,
        says=("being resumed",),
    ),
    "a Job in Kueue's queue is queued and quotes Kueue": Row(
        sight=seen(QUEUED)
        .with_job(IN_QUEUE)
        .held_by_kueue("QuotaReserved: insufficient quota for nvidia.com/gpu in flavor a100"),
        phase=Phase.QUEUED,
        condition=ConditionType.SUSPENDED,
        truth="True",
        reason=Reason.QUEUED,
        says=("queue gpus", "insufficient quota for nvidia.com/gpu"),
    ),
    "where Kueue's words can't be read the Job alone has to do": Row(
        sight=seen(QUEUED).with_job(IN_QUEUE),
        phase=Phase.QUEUED,
        condition=ConditionType.RUNNING,
        reason=Reason.QUEUED,
        says=("queue gpus.",),
    ),
    "a Job that was queued stays Kueue's when the run's label is taken away": Row(
        sight=seen().with_job(IN_QUEUE),
        phase=Phase.QUEUED,
        reason=Reason.QUEUED,
        says=("queue gpus.",),
    ),
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
    "an upload in Kueue's queue says so, and waits there for as long as it takes": Row(
        sight=TRYING_AGAIN.with_upload_job(IN_QUEUE),
        phase=Phase.UPLOADING,
        reason=Reason.QUEUED,
        says=("Kueue holds Job anna-upload back in the queue gpus", "spec.cancel"),
    ),
    "one that is suspended again after it was let go says so, too": Row(
        sight=TRYING_AGAIN.with_upload_job(a_job().suspended().let_go_at(1)),
        phase=Phase.UPLOADING,
        reason=Reason.HELD_ELSEWHERE,
        says=("Job anna-upload was suspended again", "manageJobsWithoutQueueName"),
    ),
    "once it goes on, the storage is what is waited for again": Row(
        sight=TRYING_AGAIN.with_upload_job(a_job()).after(TRYING_AGAIN.with_upload_job(IN_QUEUE)),
        phase=Phase.UPLOADING,
        reason=Reason.UPLOAD_FAILED,
        says=("s3://models does not answer.",),
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
    "a result that the workspace told again completes the run": Row(
        sight=TAKEN_ALONG.with_upload_job(
            a_job().complete(), a_pod().ended(0, a_good_result())
        ).after(TAKEN_ALONG),
        phase=Phase.COMPLETED,
        condition=ConditionType.ARTIFACT_STORED,
        truth="True",
        reason=Reason.STORED,
    ),
    "a workspace that went before it could tell leaves the result missing": Row(
        sight=TAKEN_ALONG.without_claim().after(TAKEN_ALONG),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.RESULT_MISSING,
        says=("report.json",),
    ),
    "a pod that finds no node for too long ends the run with the scheduler's words": Row(
        sight=seen().with_pods(a_pod().aged(3600).unschedulable(SCHEDULER)),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.UNSCHEDULABLE,
        says=("3600 s", "spec.limits.scheduleTimeoutSeconds", "Insufficient nvidia.com/gpu"),
    ),
    "a volume that never binds ends the run with the claim's warning": Row(
        sight=seen()
        .with_claim("Pending", warning="no persistent volumes available")
        .with_pods(a_pod().aged(3600)),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.WORKSPACE_PENDING,
        says=("scheduleTimeoutSeconds", "no persistent volumes available"),
    ),
    "an image that can't be pulled for too long ends the run": Row(
        sight=seen().with_pods(a_pod().aged(1800).waiting("ErrImagePull", "not found")),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.IMAGE_PULL_FAILED,
        says=("1800 s", "spec.limits.startTimeoutSeconds", "not found"),
    ),
    "a name that stays taken ends the run": Row(
        sight=seen()
        .job_refused(Refusal.NAME_TAKEN, "exists")
        .with_claim()
        .after(
            seen().with_claim().job_refused(Refusal.NAME_TAKEN, "exists"),
            now=NOW - timedelta(hours=1),
        ),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.NAME_TAKEN,
        says=("spec.limits.creationTimeoutSeconds", "anna-train"),
    ),
    "a trainer without progress is noted before it is ended": Row(
        sight=TRAINING.unmoved_for(660),
        phase=Phase.PENDING,
        reason=Reason.INTERRUPTED,
        says=("600 s", "spec.limits.stallTimeoutSeconds", "last checkpoint"),
    ),
    "a trainer may take its time for the first piece of a stage": Row(
        sight=TRAINING.with_progress(Stage.TRAIN, 0).unmoved_for(1800),
        phase=Phase.TRAINING,
        truth="True",
        reason=Reason.TRAINING,
    ),
    "no stage's first piece may take for ever": Row(
        sight=TRAINING.with_progress(Stage.TRAIN, 0).unmoved_for(1860),
        phase=Phase.PENDING,
        reason=Reason.INTERRUPTED,
        says=("1800 s", "spec.limits.stallTimeoutSeconds"),
    ),
    "a trainer that stalls once too often ends the run": Row(
        sight=seen(a_training().with_retries(0))
        .with_pods(a_pod().running())
        .with_progress(Stage.TRAIN, 40)
        .unmoved_for(660),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.STALLED,
        says=("stallTimeoutSeconds",),
    ),
    "too little memory is tried once more with what the spec allows": Row(
        sight=seen(MORE_MEMORY).with_job(a_job().failed("PodFailurePolicy")).with_pods(OOM),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("5Gi", "spec.resources.memoryOnRetry"),
        leads_on=True,
    ),
    "too little memory names what would do": Row(
        sight=seen(a_training().with_memory("3Gi"))
        .with_job(a_job().failed("PodFailurePolicy"))
        .with_pods(OOM),
        phase=Phase.FAILED,
        reason=Reason.OUT_OF_MEMORY,
        says=("3Gi", "6Gi", "spec.resources.memoryOnRetry"),
    ),
    "a kill that ended a suspension is no fault": Row(
        sight=seen()
        .with_job(a_job().failed("PodFailurePolicy", KILLED_POD))
        .after(TRAINING.of(SUSPENDED).after(TRAINING).of(SUSPENDED)),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("another Job", "last checkpoint"),
        leads_on=True,
    ),
    "a kill that ended a deletion is no fault, whatever ended an earlier attempt": Row(
        sight=seen()
        .with_job(a_job().failed("PodFailurePolicy", KILLED_POD.replace("x1", "x2")))
        .with_pods(a_pod().ended(1, "boom"))
        .after(
            seen()
            .with_pods(
                a_pod().ended(1, "boom"), a_pod().named("anna-train-x2").aged(1).being_deleted()
            )
            .after(seen().with_pods(a_pod().ended(1, "boom")))
        ),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("another Job", "last checkpoint"),
        leads_on=True,
    ),
    "neither is one whose pod went before anybody saw it": Row(
        sight=seen()
        .with_job(a_job().failed("PodFailurePolicy", KILLED_POD.replace("x1", "x9")))
        .with_pods(a_pod().ended(1, "boom")),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("another Job",),
        leads_on=True,
    ),
    "a kill of a pod that nobody deleted is one": Row(
        sight=seen()
        .with_job(a_job().failed("PodFailurePolicy", KILLED_POD))
        .with_pods(a_pod().ended(137)),
        phase=Phase.FAILED,
        reason=Reason.TRAINER_CRASHED,
        says=("exit code 137",),
    ),
    "the pod that the Job was failed for is the one to be quoted": Row(
        sight=seen()
        .with_job(a_job().failed("PodFailurePolicy", KILLED_POD.replace("137", "65")))
        .with_pods(
            a_pod().ended(65, a_bad_result()), a_pod().named("anna-train-x2").aged(1).ended(1, "x")
        ),
        phase=Phase.FAILED,
        reason=Reason.TOO_FEW_IMAGES,
    ),
    "what is trained and not stored is not lost": Row(
        sight=NOT_STORED_AT_LAST,
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        reason=Reason.UPLOAD_FAILED,
        says=("does not answer", "every hour without a GPU", "13:00 UTC", "spec.cancel"),
    ),
    "a deadline that passed while storing costs nothing that is trained": Row(
        sight=seen()
        .with_job(a_job().failed("DeadlineExceeded"))
        .after(seen().with_pods(a_pod().running()).with_progress(Stage.PUBLISH, 100)),
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        reason=Reason.UPLOAD_FAILED,
        says=("activeDeadlineSeconds",),
    ),
    "an upload that succeeds at last completes the run": Row(
        sight=NOT_STORED_AT_LAST.with_upload_job(
            a_job().complete(), a_pod().named("anna-upload-x").ended(0, a_good_result())
        ).after(NOT_STORED_AT_LAST),
        phase=Phase.COMPLETED,
        condition=ConditionType.ARTIFACT_STORED,
        truth="True",
        reason=Reason.STORED,
        says=("s3://models/anna/model.safetensors",),
    ),
    "a workspace that somebody deleted ends the wait for the storage": Row(
        sight=NOT_STORED_AT_LAST.without_claim().after(NOT_STORED_AT_LAST),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.WORKSPACE_LOST,
        says=("has been deleted",),
    ),
    "a volume that is gone for good ends the run": Row(
        sight=seen().with_claim("Lost"),
        phase=Phase.FAILED,
        condition=ConditionType.WORKSPACE_READY,
        reason=Reason.WORKSPACE_LOST,
        says=("anna-workspace", "Lost"),
    ),
    "an ephemeral workspace is ready without a claim": Row(
        sight=seen(a_training().with_spec("workspace.type", "Ephemeral")),
        phase=Phase.PENDING,
        condition=ConditionType.WORKSPACE_READY,
        truth="True",
        reason=Reason.WORKSPACE_IN_POD,
    ),
    "a namespace that is being deleted is quoted": Row(
        sight=seen().claim_refused(
            Refusal.CREATION_REFUSED,
            "unable to create new content in namespace studio because it is being terminated",
        ),
        phase=Phase.PENDING,
        reason=Reason.CREATION_REFUSED,
        says=("being terminated",),
    ),
}
