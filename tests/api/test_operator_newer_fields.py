"""A newer version's CRD is installed while this operator still runs, or runs again after it.

A module of its own because the CRD itself is changed for it, and put back.
"""

import copy
from collections.abc import Iterator

import pytest
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_training

from lora_operator.kube.resources import TRAININGS

pytestmark = pytest.mark.api
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/loratrainings.loratraining.dev"


def replace_crd(api: ApiServer, spec: Object) -> None:
    present = api.request("GET", CRD)
    api.request("PUT", CRD, {**present, "spec": spec})


def is_kept(api: ApiServer, manifest: Object) -> bool:
    """Whether the API server knows the new field by now."""
    path = TRAININGS.path(manifest["metadata"]["namespace"])
    return "flavour" in api.request("POST", f"{path}?dryRun=All", manifest)["spec"]


@pytest.fixture
def newer(api: ApiServer, namespace: str) -> Iterator[Stage]:
    """A run as people write them for the newer version."""
    old = api.request("GET", CRD)["spec"]
    spec = copy.deepcopy(old)
    fields = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    fields["spec"]["properties"]["flavour"] = {"type": "string"}
    fields["status"]["properties"]["mood"] = {"type": "string"}
    training = a_training().in_namespace(namespace).with_spec("flavour", "salty")
    replace_crd(api, spec)
    try:
        eventually(lambda: is_kept(api, training.manifest()), "the newer CRD is in force")
        yield Stage(api, training)
    finally:
        replace_crd(api, old)


def test_fields_that_only_a_newer_version_knows_hinder_nothing_and_are_kept(
    newer: Stage, operators: tuple[Operator, Operator]
) -> None:
    operator, _ = operators
    operator.start()
    newer.apply()
    newer.is_in("Pending", "PodPending")
    newer.api.patch_status(TRAININGS, newer.namespace, newer.name, {"mood": "bright"})
    newer.live()
    body = newer.api.get(TRAININGS, newer.namespace, newer.name)
    assert body is not None
    assert (body["spec"]["flavour"], body["status"]["mood"]) == ("salty", "bright")
