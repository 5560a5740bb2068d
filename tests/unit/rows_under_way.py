"""What is seen of a run that has not ended, and what its status then says.

A module of its own because the table has a row for each wait there is; test_operator_rules.py has
the ends, and the tests.
"""

from dataclasses import dataclass

from tests.builders import a_pod, a_training
from tests.results import a_good_result
from tests.sights import ASight, seen

from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase
from lora_operator.state.views import Refusal


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a sight must lead to."""

    sight: ASight
    phase: Phase
    condition: ConditionType = ConditionType.RUNNING
    truth: str = "False"
    reason: Reason
    says: tuple[str, ...] = ()
    """Parts of the message, each of which has to be there."""
    leads_on: bool = False
    """Whether the next look goes on from here by itself, so that it finds more to say."""


PULL = 'Back-off pulling image "reg/x:1": ErrImagePull: reg/x:1: not found'
MISFIT = "No GPU of the cluster has the 38000 MiB of memory."
SCHEDULER = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."

UNDER_WAY: dict[str, Row] = {
    "a new run waits for its Job to be created": Row(
        sight=seen(), phase=Phase.PENDING, reason=Reason.NOT_STARTED
    ),
    "a known recipe is admitted": Row(
        sight=seen(),
        phase=Phase.PENDING,
        condition=ConditionType.ADMITTED,
        truth="True",
        reason=Reason.ACCEPTED,
    ),
    "an unknown recipe fails and names the ones there are": Row(
        sight=seen(a_training().with_recipe("sd99")),
        phase=Phase.FAILED,
        reason=Reason.RECIPE_NOT_FOUND,
        says=("spec.recipe", "'sd99'", "sd15"),
    ),
    "a spec that contradicts itself fails and names the field": Row(
        sight=seen(a_training().with_spec("optimization", {"steps": 5, "epochs": 1})),
        phase=Phase.FAILED,
        reason=Reason.INVALID_SPEC,
        says=("steps or epochs",),
    ),
    "a field that only a newer version knows is no fault": Row(
        sight=seen(a_training().with_spec("network.rankSchedule", "linear")),
        phase=Phase.PENDING,
        condition=ConditionType.ADMITTED,
        truth="True",
        reason=Reason.ACCEPTED,
    ),
    "a claim that belongs to a stranger is NameTaken": Row(
        sight=seen().claim_refused(Refusal.NAME_TAKEN, "exists"),
        phase=Phase.PENDING,
        condition=ConditionType.WORKSPACE_READY,
        reason=Reason.NAME_TAKEN,
        says=("anna-workspace", "another name"),
    ),
    "a Job that belongs to a stranger is NameTaken": Row(
        sight=seen().with_claim().job_refused(Refusal.NAME_TAKEN, "exists"),
        phase=Phase.PENDING,
        reason=Reason.NAME_TAKEN,
        says=("Job anna-train", "starts by itself"),
    ),
    "a quota that refuses the Job is quoted": Row(
        sight=seen()
        .with_claim()
        .job_refused(
            Refusal.CREATION_REFUSED, "exceeded quota: jobs, requested: 1, used: 2, limited: 2"
        ),
        phase=Phase.PENDING,
        reason=Reason.CREATION_REFUSED,
        says=("exceeded quota", "Job anna-train"),
    ),
    "a claim without a volume is pending": Row(
        sight=seen().with_claim("Pending").with_job(),
        phase=Phase.PENDING,
        condition=ConditionType.WORKSPACE_READY,
        reason=Reason.WORKSPACE_PENDING,
    ),
    "a provisioning fault names the class": Row(
        sight=seen(a_training().with_storage_class("fast"))
        .with_claim("Pending", warning='storageclass.storage.k8s.io "fast" not found')
        .with_pods(a_pod().unschedulable("pod has unbound immediate PersistentVolumeClaims")),
        phase=Phase.PENDING,
        reason=Reason.WORKSPACE_PENDING,
        says=('"fast" not found', "spec.workspace.storageClassName"),
    ),
    "a bound claim makes the workspace ready": Row(
        sight=seen().with_claim().with_job(),
        phase=Phase.PENDING,
        condition=ConditionType.WORKSPACE_READY,
        truth="True",
        reason=Reason.WORKSPACE_BOUND,
    ),
    "a Job without a pod is pending": Row(
        sight=seen().with_job(), phase=Phase.PENDING, reason=Reason.POD_PENDING
    ),
    "pods refused by a quota are explained by the Job's warning": Row(
        sight=seen().with_job(warning="Error creating: exceeded quota: gpus"),
        phase=Phase.PENDING,
        reason=Reason.POD_CREATION_REFUSED,
        says=("exceeded quota: gpus",),
    ),
    "a pod without a verdict of the scheduler is pending": Row(
        sight=seen().with_pods(a_pod()), phase=Phase.PENDING, reason=Reason.POD_PENDING
    ),
    "an unschedulable pod quotes the scheduler and what was asked for": Row(
        sight=seen(a_training().with_gpus(4)).with_pods(a_pod().unschedulable(SCHEDULER)),
        phase=Phase.PENDING,
        reason=Reason.UNSCHEDULABLE,
        says=("Insufficient nvidia.com/gpu", "4 GPU(s)", "spec.resources.gpus"),
    ),
    "a pod for which no GPU is large enough says which there are, and quotes the scheduler": Row(
        sight=seen().with_pods(a_pod().unschedulable(SCHEDULER)).without_fitting_gpu(MISFIT),
        phase=Phase.PENDING,
        reason=Reason.NO_FITTING_GPU,
        says=(MISFIT, "Insufficient nvidia.com/gpu", "starts by itself"),
    ),
    "a pod that the scheduler has not looked at is not told of GPUs": Row(
        sight=seen().with_pods(a_pod()).without_fitting_gpu(MISFIT),
        phase=Phase.PENDING,
        reason=Reason.POD_PENDING,
    ),
    "a placed pod is starting": Row(
        sight=seen().with_pods(a_pod().placed()), phase=Phase.STARTING, reason=Reason.POD_STARTING
    ),
    "a placed pod that its node can't start says what the node said": Row(
        sight=seen().with_pods(a_pod().placed(), warning="FailedMount: no such volume"),
        phase=Phase.STARTING,
        reason=Reason.CONTAINER_CONFIG_ERROR,
        says=("does not start on node", "FailedMount: no such volume", "tries again"),
    ),
    "an image that can't be pulled names spec.image": Row(
        sight=seen(a_training().with_image("reg/x:1")).with_pods(
            a_pod().waiting("ImagePullBackOff", PULL)
        ),
        phase=Phase.STARTING,
        reason=Reason.IMAGE_PULL_FAILED,
        says=("reg/x:1 (spec.image)", "not found", "goes on by itself"),
    ),
    "the operator's own image is not blamed on spec.image": Row(
        sight=seen().with_pods(a_pod().waiting("ErrImagePull", "not found")),
        phase=Phase.STARTING,
        reason=Reason.IMAGE_PULL_FAILED,
        says=("operator's trainer image",),
    ),
    "an image name that is none is an image that can't be pulled": Row(
        sight=seen().with_pods(a_pod().waiting("InvalidImageName", "couldn't parse image")),
        phase=Phase.STARTING,
        reason=Reason.IMAGE_PULL_FAILED,
        says=("couldn't parse",),
    ),
    "a missing Secret is named with its field and its cure": Row(
        sight=seen().with_pods(
            a_pod().waiting("CreateContainerConfigError", 'secret "s3" not found')
        ),
        phase=Phase.STARTING,
        reason=Reason.SECRET_NOT_FOUND,
        says=("Secret s3", "spec.credentialsSecretName", "AWS_ACCESS_KEY_ID", "namespace studio"),
    ),
    "a missing key of the Secret is named": Row(
        sight=seen().with_pods(
            a_pod().waiting(
                "CreateContainerConfigError",
                "couldn't find key AWS_SECRET_ACCESS_KEY in Secret studio/s3",
            )
        ),
        phase=Phase.STARTING,
        reason=Reason.SECRET_NOT_FOUND,
        says=("Secret s3 ", "no key AWS_SECRET_ACCESS_KEY"),
    ),
    "any other fault in the container's settings is quoted": Row(
        sight=seen().with_pods(
            a_pod().waiting(
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root",
            )
        ),
        phase=Phase.STARTING,
        reason=Reason.CONTAINER_CONFIG_ERROR,
        says=("runAsNonRoot",),
    ),
    "a running container that has told nothing yet is starting": Row(
        sight=seen().with_pods(a_pod().running()),
        phase=Phase.STARTING,
        truth="True",
        reason=Reason.RUNNING,
    ),
    "fetching the data is still starting": Row(
        sight=seen().with_pods(a_pod().running()).with_progress(Stage.FETCH, 0, 0),
        phase=Phase.STARTING,
        truth="True",
        reason=Reason.RUNNING,
    ),
    "optimiser steps are training": Row(
        sight=seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40),
        phase=Phase.TRAINING,
        truth="True",
        reason=Reason.TRAINING,
    ),
    "drawing samples is validating": Row(
        sight=seen().with_pods(a_pod().running()).with_progress(Stage.SAMPLE, 100),
        phase=Phase.VALIDATING,
        truth="True",
        reason=Reason.VALIDATING,
    ),
    "publishing is uploading": Row(
        sight=seen().with_pods(a_pod().running()).with_progress(Stage.PUBLISH, 100),
        phase=Phase.UPLOADING,
        truth="True",
        reason=Reason.UPLOADING,
    ),
    "a trainer that is done is not Completed before its Job is": Row(
        sight=seen().with_pods(a_pod().ended(0, a_good_result())),
        phase=Phase.UPLOADING,
        reason=Reason.FINISHING,
    ),
    "a stored LoRA is recorded as soon as the pod tells of it": Row(
        sight=seen().with_pods(a_pod().ended(0, a_good_result())),
        phase=Phase.UPLOADING,
        condition=ConditionType.ARTIFACT_STORED,
        truth="True",
        reason=Reason.STORED,
        says=("s3://models/anna/model.safetensors",),
    ),
}
