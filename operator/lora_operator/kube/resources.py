"""Which kinds the operator touches, and the URL paths under which the API server keeps them.

A module of its own because watching, reading and writing must agree on the same few facts.
"""

from dataclasses import dataclass

from lora_api import GROUP, VERSION
from lora_api.policy import POLICY_PLURAL
from lora_api.policy_ledger import LEDGER_PLURAL
from lora_api.training import PLURAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind of namespaced object."""

    group: str
    """API group; empty for the core group."""

    version: str
    """API version within the group."""

    plural: str
    """Name of the kind in URLs."""

    @property
    def api_version(self) -> str:
        """`apiVersion` of such objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, sub: str = "") -> str:
        """URL path of one object, of a namespace's collection, or of all namespaces'."""
        root = f"/apis/{self.group}" if self.group else "/api"
        path = f"{root}/{self.version}"
        if namespace is not None:
            path += f"/namespaces/{namespace}"
        path += f"/{self.plural}"
        if name is not None:
            path += f"/{name}"
        return f"{path}/{sub}" if sub else path


TRAININGS = Resource(group=GROUP, version=VERSION, plural=PLURAL)
POLICIES = Resource(group=GROUP, version=VERSION, plural=POLICY_PLURAL)
LEDGERS = Resource(group=GROUP, version=VERSION, plural=LEDGER_PLURAL)
JOBS = Resource(group="batch", version="v1", plural="jobs")
PODS = Resource(group="", version="v1", plural="pods")
CLAIMS = Resource(group="", version="v1", plural="persistentvolumeclaims")
EVENTS = Resource(group="", version="v1", plural="events")
WORKLOADS = Resource(group="kueue.x-k8s.io", version="v1beta1", plural="workloads")
NODES = Resource(group="", version="v1", plural="nodes")
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases")

OWN_KINDS = (TRAININGS, POLICIES, LEDGERS)
CHILDREN = (JOBS, PODS, CLAIMS)
WATCHED = (TRAININGS, POLICIES, *CHILDREN)


def watched_paths(namespaces: tuple[str, ...]) -> frozenset[str]:
    """URL paths of all watches that have to be open; no namespaces means all of them."""
    return frozenset(
        resource.path(namespace) for resource in WATCHED for namespace in namespaces or (None,)
    )
