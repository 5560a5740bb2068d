"""What is seen of a run that its user, Kueue or somebody else holds back, and what is then said."""

from tests.builders import a_job, a_pod, a_training
from tests.sights import seen
from tests.unit.rows_under_way import Row

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase

TRAINING = seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40)
SUSPENDED = a_training().suspended()
QUEUED = a_training().queued_in("gpus")
IN_QUEUE = a_job().queued_in("gpus").suspended()

HELD_BACK: dict[str, Row] = {
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
}
