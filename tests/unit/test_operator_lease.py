"""The Lease is given back for certain, whatever became of the last renewal."""

import copy
from typing import Any

import pytest
from tests.dictionary_api import DictionaryApi

from lora_operator.errors import ConflictError
from lora_operator.kube.resources import LEASES
from lora_operator.leader import Elector

Object = dict[str, Any]
PATH = LEASES.path("studio", "lora-operator")


class LeaseApi(DictionaryApi):
    """Compares versions before it replaces, as the API server does."""

    async def replace_unguarded(self, resource: object, namespace: str, body: Object) -> Object:
        del resource, namespace
        held = self.objects[PATH]["metadata"]["resourceVersion"]
        if body["metadata"]["resourceVersion"] != held:
            raise ConflictError("changed since", status=409)
        self.write(body)
        return copy.deepcopy(self.objects[PATH])

    def write(self, body: Object) -> None:
        """Store it under the next version."""
        version = str(int(self.objects[PATH]["metadata"]["resourceVersion"]) + 1)
        metadata = {**body["metadata"], "resourceVersion": version}
        self.objects[PATH] = {**body, "metadata": metadata}

    @property
    def holder(self) -> str:
        """Who holds the Lease."""
        return str(self.objects[PATH]["spec"]["holderIdentity"])

    def renewed_by(self, identity: str) -> None:
        """A renewal of which the elector never heard an answer."""
        spec = {**self.objects[PATH]["spec"], "holderIdentity": identity}
        self.write({**self.objects[PATH], "spec": spec})


@pytest.mark.parametrize(
    ("unheard_of", "holder"), [(None, ""), ("one", ""), ("two", "two")], ids=str
)
async def test_a_lease_that_is_still_ours_is_given_back(
    unheard_of: str | None, holder: str
) -> None:
    api = LeaseApi()
    elector = Elector(client=api, namespace="studio", name="lora-operator", identity="one")
    await elector.acquire()
    assert api.holder == "one"
    if unheard_of is not None:
        api.renewed_by(unheard_of)
    await elector.release()
    assert (api.holder, elector.leads) == (holder, False)
