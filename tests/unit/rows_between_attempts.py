"""What is seen of an attempt that is over or being taken away, and what its run's status then says.

A module of its own because here the status has to agree with what the Job does next.
"""

from tests.builders import a_job, a_pod, a_training
from tests.results import a_bad_result
from tests.sights import seen
from tests.unit.rows_under_way import Row

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import Phase

TRAINING = seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40)

BETWEEN_ATTEMPTS: dict[str, Row] = {
    "bad input is not announced as something to be tried again": Row(
        sight=seen().with_pods(a_pod().ended(65, a_bad_result())),
        phase=Phase.PENDING,
        reason=Reason.TOO_FEW_IMAGES,
    ),
    "a crash is tried again while the Job has attempts left": Row(
        sight=seen().with_pods(a_pod().ended(1, "Traceback: boom")),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("Attempt 1 failed", "exit code 1", "boom"),
    ),
    "a trainer that ended itself because it stood still is tried again": Row(
        sight=seen().with_pods(a_pod().ended(77, "Thread 0x7f (most recent call first):")),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("(Stalled)", "600 s", "spec.limits.stallTimeoutSeconds", "stacks"),
    ),
    "a transient fault of the trainer is tried again with its reason": Row(
        sight=seen().with_pods(
            a_pod().ended(
                75, a_bad_result(Reason.STORAGE_UNREACHABLE, "No answer.", retryable=True)
            )
        ),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("StorageUnreachable", "No answer."),
    ),
    "too little memory is not announced as something to be tried again": Row(
        sight=seen(a_training().with_retries(3)).with_pods(a_pod().ended(137, "", "OOMKilled")),
        phase=Phase.PENDING,
        reason=Reason.OUT_OF_MEMORY,
        says=("larger spec.resources.memory",),
    ),
    "a container that its runtime did not start is started again": Row(
        sight=seen(a_training().with_retries(3)).with_pods(
            a_pod().ended(128, "failed to create shim task: context canceled", "StartError")
        ),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("could not start", "context canceled"),
    ),
    "a kill by somebody else says why it is the last attempt": Row(
        sight=seen().with_pods(a_pod().ended(137)),
        phase=Phase.PENDING,
        reason=Reason.TRAINER_CRASHED,
        says=("exit code 137", "not tried again", "spec.resources.memory"),
    ),
    "a kill that ended a deletion is no lack of memory": Row(
        sight=seen().with_pods(a_pod().ended(137).being_deleted()),
        phase=Phase.PENDING,
        reason=Reason.INTERRUPTED,
        says=("taken from its node (deleted)",),
    ),
    "a kill by a disruption is tried again": Row(
        sight=seen().with_pods(
            a_pod().ended(137, "", "OOMKilled").disrupted("TerminationByKubelet", "low on memory")
        ),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("TerminationByKubelet", "tried again"),
    ),
    "a fault met while being disrupted does not say that it is final": Row(
        sight=seen().with_pods(
            a_pod().ended(65, a_bad_result()).disrupted("EvictionByEvictionAPI", "drained")
        ),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("EvictionByEvictionAPI",),
    ),
    "a preempted attempt is told as such": Row(
        sight=seen().with_pods(
            a_pod().ended(143).disrupted("PreemptionByScheduler", "preempted by another pod")
        ),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("PreemptionByScheduler",),
    ),
    "a pod on a node that is lost is not shown as training": Row(
        sight=seen()
        .with_pods(
            a_pod()
            .running()
            .being_deleted()
            .disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        )
        .after(TRAINING),
        phase=Phase.TRAINING,
        reason=Reason.INTERRUPTED,
        says=("node-1", "DeletionByTaintManager", "next attempt", "comes back", "Node object"),
    ),
    "a pod that somebody deletes is being taken away": Row(
        sight=seen().with_pods(a_pod().running().being_deleted()).after(TRAINING),
        phase=Phase.TRAINING,
        reason=Reason.INTERRUPTED,
        says=("it is being deleted",),
    ),
    "a pod that is about to be preempted is being taken away": Row(
        sight=seen()
        .with_pods(a_pod().running().disrupted("PreemptionByScheduler", "preempted"))
        .after(TRAINING),
        phase=Phase.TRAINING,
        reason=Reason.INTERRUPTED,
        says=("PreemptionByScheduler",),
    ),
    "a pod whose image never came is being taken away, too": Row(
        sight=seen().with_pods(a_pod().waiting("ErrImagePull", "no").being_deleted()),
        phase=Phase.PENDING,
        reason=Reason.INTERRUPTED,
        says=("node-1",),
    ),
    "no next attempt is announced for a Job that is about to fail": Row(
        sight=seen()
        .with_job(a_job().failing("DeadlineExceeded"))
        .with_pods(a_pod().running().being_deleted())
        .after(TRAINING),
        phase=Phase.TRAINING,
        reason=Reason.INTERRUPTED,
        says=("The run ends (DeadlineExceeded)", "Node object"),
    ),
}
