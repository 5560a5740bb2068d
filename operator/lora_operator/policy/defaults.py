"""What a run has where it says nothing and its namespace's policy does.

A module of its own, and not a MutatingAdmissionPolicy, because that is beta and switched off in
the Kubernetes versions that we support. So the stored run keeps what its author wrote, and the
operator resolves the rest when it makes the pod.
"""

from lora_api.policy import TrainingPolicySpec
from lora_api.training import LoRATrainingSpec, RetentionSettings


def with_defaults(spec: LoRATrainingSpec, policy: TrainingPolicySpec) -> LoRATrainingSpec:
    """The spec with the policy's defaults where it has nothing of its own.

    Where the result goes is not among them: that is settled once (`policy.output`).
    """
    given = policy.defaults
    return spec.model_copy(
        update={
            "credentials_secret_name": (
                spec.credentials_secret_name or given.credentials_secret_name
            ),
            "priority_class_name": spec.priority_class_name or given.priority_class_name,
            "retention": retention_by(spec.retention, policy),
        }
    )


def retention_by(retention: RetentionSettings, policy: TrainingPolicySpec) -> RetentionSettings:
    """What is kept of a run, with the policy's defaults for what the run leaves open."""
    given = policy.defaults
    wanted = {
        "job_seconds": given.job_seconds,
        "workspace": given.workspace_retention,
        "ttl_seconds": given.ttl_seconds,
    }
    said = retention.model_dump(exclude_none=True)
    return retention.model_copy(update={k: v for k, v in wanted.items() if k not in said})


def priority_of(spec: LoRATrainingSpec, policy: TrainingPolicySpec) -> int:
    """Weight of the run in the queue, from the policy's list of classes; 0 where it has none."""
    name = with_defaults(spec, policy).priority_class_name
    listed = policy.priority_classes or ()
    return next((entry.value for entry in listed if entry.name == name), 0)
