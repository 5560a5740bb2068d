"""What is seen of a run that is trained and not stored, or whose result is lost, and what is said.

A module of its own because such a run has neither failed nor completed: a Job without GPU follows.
"""

from tests.builders import a_job, a_pod
from tests.results import a_bad_result, a_good_result
from tests.sights import seen
from tests.unit.rows_held_back import IN_QUEUE
from tests.unit.rows_under_way import Row

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase

TAKEN_ALONG = seen().with_job(a_job().complete())
NOT_STORED = a_pod().ended(
    76, a_bad_result(Reason.UPLOAD_FAILED, "s3://models does not answer.", retryable=True)
)
NOT_STORED_AT_LAST = (
    seen()
    .with_job(a_job().failed("BackoffLimitExceeded").with_failed_pods(4))
    .with_pods(NOT_STORED)
)
TRYING_AGAIN = NOT_STORED_AT_LAST.settled()

STORED_LATER: dict[str, Row] = {
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
}
