"""Every reason that a condition, an event or a result may carry, with its meaning.

A module of its own because reasons are an interface: platforms match on them, so a rename here is
a breaking change, and docs/reasons.md is generated from this list.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Stable CamelCase reasons; each has a sentence in `MEANINGS`."""

    # The way of a healthy run.
    ACCEPTED = "Accepted"
    NOT_STARTED = "NotStarted"
    WORKSPACE_BOUND = "WorkspaceBound"
    WORKSPACE_PENDING = "WorkspacePending"
    PREDECESSOR_TERMINATING = "PredecessorTerminating"
    POD_PENDING = "PodPending"
    POD_STARTING = "PodStarting"
    RUNNING = "Running"
    TRAINING = "Training"
    VALIDATING = "Validating"
    UPLOADING = "Uploading"
    FINISHING = "Finishing"
    STORED = "Stored"
    MEASURED = "Measured"
    NOT_MEASURED = "NotMeasured"
    GATE_NOT_PASSED = "GateNotPassed"
    COMPLETED = "Completed"
    WORKSPACE_IN_POD = "WorkspaceInPod"
    NOT_SUSPENDED = "NotSuspended"
    SETTLED = "Settled"
    # What the user asked for.
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    QUEUED = "Queued"
    HELD_ELSEWHERE = "HeldElsewhere"
    CANCELLING = "Cancelling"
    CANCELLED = "Cancelled"
    # Waiting that somebody can end.
    UNSCHEDULABLE = "Unschedulable"
    NO_FITTING_GPU = "NoFittingGPU"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    POD_CREATION_REFUSED = "PodCreationRefused"
    POD_MISSING = "PodMissing"
    POD_NOT_ADMITTED = "PodNotAdmitted"
    CREATION_REFUSED = "CreationRefused"
    RETRYING = "Retrying"
    NAME_TAKEN = "NameTaken"
    # What the namespace's policy refuses.
    MONTHLY_LIMIT_REACHED = "MonthlyLimitReached"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    ESTIMATE_ABOVE_BUDGET = "EstimateAboveBudget"
    QUOTA_TOO_SMALL = "QuotaTooSmall"
    # What keeps a policy from deciding anything.
    POLICY_UNREADABLE = "PolicyUnreadable"
    CURRENCY_CHANGED = "CurrencyChanged"
    # What a policy warns of.
    BUDGET_ALERT = "BudgetAlert"
    TRAINING_EXPENSIVE = "TrainingExpensive"
    # Ends found by the operator.
    INVALID_SPEC = "InvalidSpec"
    RECIPE_NOT_FOUND = "RecipeNotFound"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    OUT_OF_MEMORY = "OutOfMemory"
    TRAINER_CRASHED = "TrainerCrashed"
    STALLED = "Stalled"
    STORAGE_LIMIT_EXCEEDED = "StorageLimitExceeded"
    WORKSPACE_LOST = "WorkspaceLost"
    JOB_VANISHED = "JobVanished"
    RESULT_MISSING = "ResultMissing"
    # Ends told by the trainer.
    INVALID_JOB = "InvalidJob"
    TOO_FEW_IMAGES = "TooFewImages"
    TOO_MANY_IMAGES = "TooManyImages"
    INVALID_IMAGES = "InvalidImages"
    INVALID_CAPTIONS = "InvalidCaptions"
    BASE_MODEL_NOT_FOUND = "BaseModelNotFound"
    BASE_MODEL_INVALID = "BaseModelInvalid"
    EMBEDDER_INVALID = "EmbedderInvalid"
    TARGET_MODULES_NOT_FOUND = "TargetModulesNotFound"
    BUCKET_NOT_FOUND = "BucketNotFound"
    OBJECT_NOT_FOUND = "ObjectNotFound"
    CREDENTIALS_MISSING = "CredentialsMissing"
    ACCESS_DENIED = "AccessDenied"
    STORAGE_UNREACHABLE = "StorageUnreachable"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    WORKSPACE_FULL = "WorkspaceFull"
    WORKSPACE_NOT_WRITABLE = "WorkspaceNotWritable"
    OUT_OF_GPU_MEMORY = "OutOfGpuMemory"
    TRAINING_DIVERGED = "TrainingDiverged"
    ARTIFACT_MISMATCH = "ArtifactMismatch"
    UPLOAD_FAILED = "UploadFailed"
    INTERRUPTED = "Interrupted"
    INTERNAL_ERROR = "InternalError"


MEANINGS: dict[Reason, str] = {
    Reason.ACCEPTED: "The spec is valid and its recipe is known.",
    Reason.NOT_STARTED: "What this condition waits for has not begun.",
    Reason.WORKSPACE_BOUND: "The workspace's volume is bound.",
    Reason.WORKSPACE_PENDING: "The workspace's claim waits for a volume.",
    Reason.PREDECESSOR_TERMINATING: (
        "The Job or claim of an earlier run of this name is still being removed."
    ),
    Reason.POD_PENDING: "The Job exists; its pod has not been placed on a node yet.",
    Reason.POD_STARTING: "The pod is on a node; its image is pulled or its container starts.",
    Reason.RUNNING: "The trainer runs and prepares: data, base model, caches.",
    Reason.TRAINING: "The trainer does optimiser steps.",
    Reason.VALIDATING: "The trainer checks the saved LoRA and draws samples.",
    Reason.UPLOADING: "The trainer stores the result.",
    Reason.FINISHING: "The trainer is done; its Job closes.",
    Reason.STORED: "The LoRA is in object storage and its digest was checked.",
    Reason.MEASURED: "The LoRA was measured against the base model, and passed the gate.",
    Reason.NOT_MEASURED: "No pictures were held out, so nothing was measured.",
    Reason.GATE_NOT_PASSED: "The LoRA is stored, but did not reach spec.validation.gate.",
    Reason.COMPLETED: "Trained, checked and stored.",
    Reason.WORKSPACE_IN_POD: "The workspace lies in the pod (spec.workspace.type is Ephemeral).",
    Reason.NOT_SUSPENDED: "Neither spec.suspend nor a queue holds the run back.",
    Reason.SETTLED: "Nothing is awaited, or nothing went wrong for good.",
    Reason.SUSPENDING: "spec.suspend is set; the trainer writes a checkpoint and frees its GPU.",
    Reason.SUSPENDED: "spec.suspend is set; the run holds no GPU and goes on where it was.",
    Reason.QUEUED: "The namespace's policy, or Kueue, holds the run back until there is quota.",
    Reason.POLICY_UNREADABLE: (
        "The namespace's TrainingPolicy or TrainingLedger can't be read, so nothing is started."
    ),
    Reason.CURRENCY_CHANGED: (
        "The policy's currency is another than that of the month's sums, so nothing is started."
    ),
    Reason.HELD_ELSEWHERE: (
        "Something that is neither spec.suspend nor the run's queue keeps suspending its Job."
    ),
    Reason.CANCELLING: "spec.cancel is set; the trainer is being stopped.",
    Reason.CANCELLED: "spec.cancel ended the run.",
    Reason.UNSCHEDULABLE: "No node has what the pod asks for (GPUs, memory, volume zone).",
    Reason.NO_FITTING_GPU: "No GPU of the labelled nodes has the memory that the run needs.",
    Reason.IMAGE_PULL_FAILED: "The trainer image can't be pulled.",
    Reason.SECRET_NOT_FOUND: "The credentials Secret, or a key in it, does not exist.",
    Reason.CONTAINER_CONFIG_ERROR: "The kubelet can't create the container from its settings.",
    Reason.POD_CREATION_REFUSED: "The Job controller may not create the pod (quota, admission).",
    Reason.POD_MISSING: "The Job has had no pod for minutes, and no event says why.",
    Reason.POD_NOT_ADMITTED: (
        "The node's kubelet did not admit the pod (a device plugin restarts, the node shuts "
        "down or is full); no retry is spent."
    ),
    Reason.CREATION_REFUSED: "The API server refused the Job or the claim (quota, admission).",
    Reason.RETRYING: "An attempt failed in a way that another may not; it is tried again.",
    Reason.NAME_TAKEN: "A Job or claim of the needed name exists and is not this run's.",
    Reason.MONTHLY_LIMIT_REACHED: "The user has made as many runs this month as the policy allows.",
    Reason.BUDGET_ALERT: "The namespace has spent a share of its budget that the policy warns at.",
    Reason.TRAINING_EXPENSIVE: "A run has cost more than the policy's maxCostPerTraining.",
    Reason.BUDGET_EXHAUSTED: "The namespace's monthly budget is spent.",
    Reason.ESTIMATE_ABOVE_BUDGET: "The run would cost more than what is left of the budget.",
    Reason.QUOTA_TOO_SMALL: "The run needs more at once than the policy ever allows.",
    Reason.INVALID_SPEC: "The stored spec does not fit the schema of this operator.",
    Reason.RECIPE_NOT_FOUND: "spec.recipe names no recipe that this operator knows.",
    Reason.DEADLINE_EXCEEDED: "spec.limits.activeDeadlineSeconds passed.",
    Reason.OUT_OF_MEMORY: "The container went over spec.resources.memory and was killed.",
    Reason.TRAINER_CRASHED: "The trainer ended without saying why.",
    Reason.STALLED: "No progress for spec.limits.stallTimeoutSeconds, again and again.",
    Reason.STORAGE_LIMIT_EXCEEDED: (
        "The pod wrote more than a size limit allows (spec.workspace.size, /tmp) and was evicted."
    ),
    Reason.WORKSPACE_LOST: "The workspace's volume is gone for good.",
    Reason.JOB_VANISHED: "Somebody deleted the run's Job before it ended.",
    Reason.RESULT_MISSING: "The Job succeeded, but its pod and with it the result are gone.",
    Reason.INVALID_JOB: "The job document has missing, unknown or wrong fields.",
    Reason.TOO_FEW_IMAGES: "Fewer pictures than spec.dataset.minImages.",
    Reason.TOO_MANY_IMAGES: "More pictures than spec.dataset.maxImages.",
    Reason.INVALID_IMAGES: (
        "Pictures, clips or their archive are unreadable, of a wrong type, or off the limits."
    ),
    Reason.INVALID_CAPTIONS: "Captions are missing, empty, not UTF-8, or given twice.",
    Reason.BASE_MODEL_NOT_FOUND: "Nothing, or no model_index.json, lies at spec.baseModel.uri.",
    Reason.BASE_MODEL_INVALID: "The base model does not fit the recipe, or is not safetensors.",
    Reason.EMBEDDER_INVALID: (
        "No image embedder lies at spec.validation.embedderUri that can be used."
    ),
    Reason.TARGET_MODULES_NOT_FOUND: "No layer of the base model can take the LoRA.",
    Reason.BUCKET_NOT_FOUND: "The bucket does not exist.",
    Reason.OBJECT_NOT_FOUND: "Nothing lies under the URI.",
    Reason.CREDENTIALS_MISSING: "An s3:// URI is used, but no credentials are given.",
    Reason.ACCESS_DENIED: "The storage refused the credentials, or they may not do this.",
    Reason.STORAGE_UNREACHABLE: "The storage endpoint does not answer.",
    Reason.CHECKSUM_MISMATCH: "A file arrived different from what the storage holds.",
    Reason.OUTPUT_NOT_WRITABLE: "spec.output.uri can't be written with the given credentials.",
    Reason.WORKSPACE_FULL: "The workspace has no room left; raise spec.workspace.size.",
    Reason.WORKSPACE_NOT_WRITABLE: "The workspace folder can't be written.",
    Reason.OUT_OF_GPU_MEMORY: "The training does not fit the GPU's memory.",
    Reason.TRAINING_DIVERGED: "The loss stopped being finite; the bad update was not applied.",
    Reason.ARTIFACT_MISMATCH: "The saved LoRA, read back, differs from the trained one.",
    Reason.UPLOAD_FAILED: "Trained, but the result could not be stored; it lies in the workspace.",
    Reason.INTERRUPTED: (
        "The pod is or was taken from its node (preemption, drain, a lost node, deletion); the "
        "next attempt goes on from the last checkpoint."
    ),
    Reason.INTERNAL_ERROR: "A fault in the trainer; its log has the details.",
}
