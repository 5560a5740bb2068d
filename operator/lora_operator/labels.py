"""Labels and names of what the operator creates for a run.

A module of its own because they are found again by these alone: builders write them, the watch
selects by them, and a person reads them in `kubectl get -l`.
"""

from lora_api import GROUP

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "lora-operator"
RUN_LABEL = f"{GROUP}/run"
RUN_UID_LABEL = f"{GROUP}/run-uid"
TRAINER_CONTAINER = "trainer"
CHILD_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGER},{RUN_UID_LABEL}"


def labels_of(run_name: str, run_uid: str) -> dict[str, str]:
    """Labels of everything that belongs to a run."""
    return {
        "app.kubernetes.io/name": "lora-training",
        "app.kubernetes.io/instance": run_name,
        MANAGED_BY_LABEL: MANAGER,
        RUN_LABEL: run_name,
        RUN_UID_LABEL: run_uid,
    }


def job_name(run_name: str) -> str:
    """Name of the run's one Job."""
    return f"{run_name}-train"


def workspace_name(run_name: str) -> str:
    """Name of the run's workspace claim."""
    return f"{run_name}-workspace"
