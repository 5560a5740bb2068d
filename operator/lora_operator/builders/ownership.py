"""Names, labels and owner of everything created for a run, and how to recognise it again.

A module of its own because "is this ours?" decides between success and the condition NameTaken;
builder and check must not drift apart.
"""

from typing import Any

from lora_api import API_VERSION, GROUP
from lora_api.training import KIND
from lora_operator.labels import labels_of
from lora_operator.state.views import Run


def metadata(run: Run, name: str) -> dict[str, Any]:
    """Metadata of a child of the run."""
    return {
        "name": name,
        "namespace": run.key.namespace,
        "labels": labels_of(run.key.name, run.uid),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": run.key.name,
                "uid": run.uid,
                "controller": True,
                # Blocking would need the right to set finalizers and helps nobody: garbage
                # collection of the children may come after the run is gone.
                "blockOwnerDeletion": False,
            }
        ],
    }


def is_owned_by(body: dict[str, Any], uid: str) -> bool:
    """Whether the object's controlling owner is the run with this uid; labels prove nothing.

    The kind counts, because only an owner that is called a LoRATraining is guarded by the chart's
    admission rules.
    """
    return _is_controlled_by(body, GROUP, KIND, uid)


def is_pod_of(body: dict[str, Any], job_uid: str) -> bool:
    """Whether the pod's controlling owner is the Job with this uid."""
    return _is_controlled_by(body, "batch", "Job", job_uid)


def owning_job(body: dict[str, Any]) -> str | None:
    """Name of the Job that is the object's controlling owner, if one is."""
    owners = body["metadata"].get("ownerReferences", [])
    found = (o["name"] for o in owners if o.get("controller") and o["kind"] == "Job")
    return next(found, None)


def _is_controlled_by(body: dict[str, Any], group: str, kind: str, uid: str) -> bool:
    return any(
        owner.get("controller")
        and owner["uid"] == uid
        and (owner["apiVersion"].partition("/")[0], owner["kind"]) == (group, kind)
        for owner in body["metadata"].get("ownerReferences", [])
    )


def is_left_by_predecessor(body: dict[str, Any], run: Run) -> bool:
    """Whether the object's controlling owner is an earlier run of the same name.

    Its owner can't exist any more, or this run would not, so garbage collection removes it.
    """
    return any(
        owner.get("controller")
        and owner["apiVersion"].partition("/")[0] == GROUP
        and (owner["kind"], owner["name"]) == (KIND, run.key.name)
        and owner["uid"] != run.uid
        for owner in body["metadata"].get("ownerReferences", [])
    )
