"""What is seen of a run that can't go on, and what its status then says.

A module of its own because the same question comes before each of these ends: is a finished LoRA
still waiting to be stored?
"""

from datetime import timedelta

from tests.builders import NOW, a_job, a_pod, a_training
from tests.results import a_bad_result
from tests.sights import ASight, seen
from tests.unit.rows_held_back import TRAINING
from tests.unit.rows_limits import KILLED_POD
from tests.unit.rows_stored_later import NOT_STORED
from tests.unit.rows_under_way import SCHEDULER, Row

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase

SECOND = a_pod().named("anna-train-x2")
STORAGE_AWAY = a_bad_result(Reason.STORAGE_UNREACHABLE, "No answer.", retryable=True)
NO_ENTRY = a_bad_result(Reason.ACCESS_DENIED, "The keys are wrong.")
EPHEMERAL = a_training().with_spec("workspace.type", "Ephemeral")
BROKEN = a_training().with_spec("optimization", {"steps": 5, "epochs": 1})
STALLS = TRAINING.unmoved_for(660)
LOST_SIGHT = a_pod().ended(137, "The container could not be located", "ContainerStatusUnknown")


def after_sampling(sight: ASight) -> ASight:
    """The sight of a run whose first attempt drew samples, and whose second fetched again."""
    sampled = seen().with_pods(a_pod().running()).with_progress(Stage.SAMPLE, 100)
    fetching = (
        seen()
        .with_pods(a_pod().ended(1, "boom"), SECOND.aged(1).running())
        .with_progress(Stage.FETCH, 0)
    )
    return sight.after(fetching.after(sampled))


def given_up_with(code: int, said: str) -> ASight:
    """Such a run, whose Job failed in the end."""
    failed = a_job().failed("BackoffLimitExceeded").with_failed_pods(4)
    return after_sampling(seen().with_job(failed).with_pods(SECOND.ended(code, said)))


def on_claim(sight: ASight) -> ASight:
    """A sight of a Job whose workspace is no claim."""
    return sight.of(EPHEMERAL).without_claim()


WAITS_FOR_A_NODE = SECOND.aged(3600).unschedulable(SCHEDULER)
NO_NODE_AGAIN = seen().with_pods(NOT_STORED, WAITS_FOR_A_NODE).after(seen().with_pods(NOT_STORED))
NEVER_STORED = on_claim(seen().with_job(a_job().failed().with_failed_pods(4)).with_pods(NOT_STORED))

GIVEN_UP: dict[str, Row] = {
    "what an earlier attempt trained is stored, though the last one got no further than Fetch": Row(
        sight=given_up_with(75, STORAGE_AWAY),
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        reason=Reason.UPLOAD_FAILED,
        says=("No answer.", "every hour without a GPU"),
    ),
    "where trying again can't help the run fails all the same": Row(
        sight=given_up_with(65, NO_ENTRY),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.ACCESS_DENIED,
    ),
    "a trained run that finds no node for another attempt is stored without one": Row(
        sight=NO_NODE_AGAIN,
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        reason=Reason.UPLOAD_FAILED,
        says=("scheduleTimeoutSeconds", "without a GPU", "next at 12:00 UTC"),
        leads_on=True,
    ),
    "a trained run whose Job somebody deleted is stored without it": Row(
        sight=after_sampling(seen().with_claim()),
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        reason=Reason.UPLOAD_FAILED,
        says=("anna-train was deleted",),
        leads_on=True,
    ),
    "a deadline that passed after the training costs nothing that is trained": Row(
        sight=seen()
        .with_job(a_job().failed("DeadlineExceeded"))
        .after(seen().with_pods(a_pod().running()).with_progress(Stage.SAMPLE, 100)),
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        reason=Reason.UPLOAD_FAILED,
        says=("activeDeadlineSeconds",),
    ),
    "a LoRA without a claim is stored from the bucket's copy": Row(
        sight=NEVER_STORED,
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        reason=Reason.UPLOAD_FAILED,
        says=("copy in the bucket", "every hour"),
    ),
    "a trainer that stalls for the last time is not said to be tried again": Row(
        sight=STALLS.of(a_training().with_retries(0)),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.STALLED,
        says=("No attempt is left (spec.limits.retries).",),
    ),
    "a stalled pod that had to be killed costs one attempt and not the run": Row(
        sight=seen().with_job(a_job().failed("PodFailurePolicy", KILLED_POD)).after(STALLS),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("another Job", "last checkpoint"),
        leads_on=True,
    ),
    "a container that its restarted node lost sight of was not killed by too little memory": Row(
        sight=seen().with_pods(LOST_SIGHT),
        phase=Phase.PENDING,
        reason=Reason.INTERRUPTED,
        says=("ContainerStatusUnknown", "could not be located"),
    ),
    "a node's restart is survived": Row(
        sight=seen().with_job(a_job().failed("PodFailurePolicy", KILLED_POD)).with_pods(LOST_SIGHT),
        phase=Phase.PENDING,
        reason=Reason.RETRYING,
        says=("another Job",),
        leads_on=True,
    ),
    "a run whose spec can't be read by now ends once no Job is left": Row(
        sight=seen(BROKEN)
        .with_claim()
        .after(seen().with_job(a_job().failed("PodFailurePolicy", KILLED_POD)).after(STALLS))
        .of(BROKEN),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.INVALID_SPEC,
        says=("steps or epochs",),
    ),
    "a cancelled run waits for its earlier Job's pod, too": Row(
        sight=seen(a_training().cancelled())
        .with_claim()
        .with_other_job(a_job().being_deleted(), number=1),
        phase=Phase.PENDING,
        reason=Reason.CANCELLING,
        says=("Job anna-train",),
    ),
    "a volume that is lost while an upload is awaited ends the wait": Row(
        sight=given_up_with(75, STORAGE_AWAY)
        .after(given_up_with(75, STORAGE_AWAY), now=NOW - timedelta(hours=2))
        .with_claim("Lost"),
        phase=Phase.FAILED,
        condition=ConditionType.SUCCEEDED,
        reason=Reason.WORKSPACE_LOST,
    ),
}
