"""What is seen of a run that waited too long, stalls, or was killed, and what is then said.

A module of its own because here a limit decides, and not the trainer's own word.
"""

from datetime import timedelta

from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import a_bad_result
from tests.sights import seen
from tests.unit.rows_held_back import SUSPENDED, TRAINING
from tests.unit.rows_under_way import SCHEDULER, Row

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase
from lora_operator.state.views import Refusal

KILLED_POD = (
    "Container trainer for pod studio/anna-train-x1 failed with exit code 137 matching FailJob "
    "rule at index 2"
)
MORE_MEMORY = a_training().with_memory("3Gi").with_spec("resources.memoryOnRetry", "5Gi")
OOM = a_pod().ended(137, "", "OOMKilled")

LIMITS: dict[str, Row] = {
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
