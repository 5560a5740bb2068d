"""What a Job that goes on where another has trained takes over from it, word for word.

A module of its own because a run may outlive the operator that began it: another version has
another image and other defaults, and a trainer that is told anything else begins anew.
"""

import copy
from typing import Any

from lora_api.job import JOB_ENVIRONMENT_VARIABLE

Object = dict[str, Any]


def with_trainer_of(wanted: Object, trained: Object) -> Object:
    """The Job `wanted`, with the image and the job document of a Job that has `trained`."""
    body = copy.deepcopy(wanted)
    ours, theirs = _container(body), _container(trained)
    ours["image"] = theirs["image"]
    documents = {e["name"]: e for e in theirs["env"] if e["name"] == JOB_ENVIRONMENT_VARIABLE}
    ours["env"] = [documents.get(entry["name"], entry) for entry in ours["env"]]
    return body


def _container(job: Object) -> Object:
    container: Object = job["spec"]["template"]["spec"]["containers"][0]
    return container
