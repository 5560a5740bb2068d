"""Labels and names of what the operator creates for a run.

A module of its own because they are found again by these alone: builders write them, the watch
selects by them, and a person reads them in `kubectl get -l`.
"""

import re

from lora_api import GROUP

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "lora-operator"
RUN_LABEL = f"{GROUP}/run"
RUN_UID_LABEL = f"{GROUP}/run-uid"
# Kueue's own: a run that carries them goes through the queue that they name.
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_LABELS = (QUEUE_LABEL, "kueue.x-k8s.io/priority-class")
# On a Job that we let go: at which generation of the run. Who holds it back after that is not us.
RESUMED_ANNOTATION = f"{GROUP}/resumed-at-generation"
TRAINER_CONTAINER = "trainer"
CHILD_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGER},{RUN_UID_LABEL}"

_JOB_NAME = re.compile(r"(.+)-(?:train(?:-\d+)?|upload|partial|tidy)")


def labels_of(run_name: str, run_uid: str) -> dict[str, str]:
    """Labels of everything that belongs to a run."""
    return {
        "app.kubernetes.io/name": "lora-training",
        "app.kubernetes.io/instance": run_name,
        MANAGED_BY_LABEL: MANAGER,
        RUN_LABEL: run_name,
        RUN_UID_LABEL: run_uid,
    }


def job_name(run_name: str, number: int = 1) -> str:
    """Name of the run's Job; there is another one only where the first could not go on."""
    return f"{run_name}-train" if number == 1 else f"{run_name}-train-{number}"


def job_number(run_name: str, name: str) -> int | None:
    """Number of the Job of this name, or None where the name is none of ours."""
    number = name.removeprefix(f"{run_name}-train-")
    if name == job_name(run_name):
        return 1
    return int(number) if number.isdecimal() and name == job_name(run_name, int(number)) else None


def upload_job_name(run_name: str) -> str:
    """Name of the Job that stores what is trained but could not be stored."""
    return f"{run_name}-upload"


def partial_job_name(run_name: str) -> str:
    """Name of the Job that stores what a cancelled run had trained."""
    return f"{run_name}-partial"


def tidy_job_name(run_name: str) -> str:
    """Name of the Job that removes what an Ephemeral workspace left in the bucket."""
    return f"{run_name}-tidy"


def run_of_job(name: str) -> str | None:
    """Name of the run whose Job would be called this, or None where none would."""
    found = _JOB_NAME.fullmatch(name)
    return found[1] if found is not None else None


def workspace_name(run_name: str) -> str:
    """Name of the run's workspace claim."""
    return f"{run_name}-workspace"
