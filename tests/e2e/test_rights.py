"""The operator may do what it has to, and nothing else; people get view and edit."""

import subprocess
from typing import Any

import pytest
import yaml
from tests.e2e.conftest import Cluster

from lora_demo.environment import DemoError, run
from lora_demo.install import CHART, OPERATOR_NAMESPACE, RELEASE

pytestmark = pytest.mark.e2e
OPERATOR = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}"
RUNS = "loratrainings.loratraining.dev"

RIGHTS = [
    ("watches runs in every namespace", "watch", RUNS, "studio", True),
    ("writes a run's status", "patch", f"{RUNS}/status", "studio", True),
    ("creates Jobs", "create", "jobs.batch", "studio", True),
    ("creates claims", "create", "persistentvolumeclaims", "studio", True),
    ("sees pods", "watch", "pods", "studio", True),
    ("tells events", "create", "events", "studio", True),
    ("keeps its own Lease", "update", "leases.coordination.k8s.io/lora-operator",
     OPERATOR_NAMESPACE, True),
    ("never reads Secrets", "get", "secrets", "studio", False),
    ("never lists Secrets", "list", "secrets", OPERATOR_NAMESPACE, False),
    ("never execs into pods", "create", "pods/exec", "studio", False),
    ("creates no pods itself", "create", "pods", "studio", False),
    ("deletes runs whose time is over", "delete", RUNS, "studio", True),
    ("changes no specs", "update", RUNS, "studio", False),
    ("deletes workspaces", "delete", "persistentvolumeclaims", "studio", True),
    ("deletes no volumes", "delete", "persistentvolumes", "studio", False),
    ("touches no other Lease", "update", "leases.coordination.k8s.io/other",
     OPERATOR_NAMESPACE, False),
    ("keeps no Lease in a tenant's namespace", "create", "leases.coordination.k8s.io", "studio",
     False),
    ("grants no rights", "create", "rolebindings.rbac.authorization.k8s.io", "studio", False),
    ("reads no ConfigMaps", "get", "configmaps", "studio", False),
    ("asks pods, not through the API server", "get", "pods/proxy", "studio", False),
    ("sees which GPUs nodes have", "list", "nodes", "studio", True),
    ("watches no nodes", "watch", "nodes", "studio", False),
]  # fmt: skip


def may(cluster: Cluster, user: str, verb: str, resource: str, namespace: str) -> bool:
    resource, _, rest = resource.partition("/")
    # What follows the slash is a subresource for pods and runs, an object's name for Leases.
    extra = [f"--subresource={rest}"] if rest and "leases" not in resource else []
    target = f"{resource}/{rest}" if rest and not extra else resource
    answer = subprocess.run(
        ["kubectl", "auth", "can-i", verb, target, f"--as={user}", "-n", namespace, *extra],
        env=cluster.environment.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.strip() in {"yes", "no"}, answer.stderr
    return answer.stdout.strip() == "yes"


@pytest.mark.parametrize(
    ("sentence", "verb", "resource", "namespace", "allowed"),
    RIGHTS,
    ids=[row[0] for row in RIGHTS],
)
def test_the_operator(
    cluster: Cluster, sentence: str, verb: str, resource: str, namespace: str, allowed: bool
) -> None:
    assert may(cluster, OPERATOR, verb, resource, namespace) is allowed, sentence


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "list", RUNS, True),
        ("view", "create", RUNS, False),
        ("edit", "create", RUNS, True),
        ("edit", "delete", RUNS, True),
        ("edit", "patch", f"{RUNS}/status", False),
    ],
)
def test_people_get_the_runs_with_their_usual_roles(
    cluster: Cluster, namespace: str, role: str, verb: str, resource: str, allowed: bool
) -> None:
    cluster.kubectl(
        "create", "rolebinding", f"{role}-{verb}-{int(allowed)}-{'status' in resource}".lower(),
        f"--clusterrole={role}", f"--user={role}-user", "-n", namespace,
    )  # fmt: skip
    assert may(cluster, f"{role}-user", verb, resource, namespace) is allowed


@pytest.mark.parametrize(
    ("sentence", "setting", "told"),
    [
        ("a typo in a name", "imgae.tag=v1", "imgae"),
        ("no replicas", "replicas=0", "replicas"),
        ("an unknown way to progress", "progressVia=carrier-pigeon", "progressVia"),
        ("a privileged port", "metrics.port=80", "port"),
    ],
)
def test_wrong_chart_values_are_refused_by_name(
    cluster: Cluster, sentence: str, setting: str, told: str
) -> None:
    with pytest.raises(DemoError) as caught:
        run(cluster.environment, "helm", "template", "x", str(CHART), "--set", setting)
    assert told in str(caught.value), sentence


def rendered(cluster: Cluster, release: str, *options: str) -> list[dict[str, Any]]:
    """The chart's objects, as the cluster that runs would get them."""
    # Without a cluster helm renders for the Kubernetes that it was built with.
    version = yaml.safe_load(cluster.kubectl("version", "-o", "yaml"))["serverVersion"]
    fixed = ("--kube-version", version["gitVersion"])
    text = run(cluster.environment, "helm", "template", release, str(CHART), *fixed, *options)
    return list(yaml.safe_load_all(text))


def test_an_operator_of_named_namespaces_has_rights_in_those_alone(cluster: Cluster) -> None:
    bindings = [
        (document["kind"], document["metadata"].get("namespace"))
        for document in rendered(cluster, "x", "--set", "namespaces={studio,lab}")
        if document["kind"] in {"ClusterRoleBinding", "RoleBinding"}
        and document["roleRef"]["kind"] == "ClusterRole"
    ]
    assert bindings == [("RoleBinding", "studio"), ("RoleBinding", "lab")]


def test_two_releases_do_not_share_a_lease(cluster: Cluster) -> None:
    for release in ("one", "two"):
        documents = rendered(cluster, release)
        pod = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]
        role = next(d for d in documents if d["kind"] == "Role")
        assert f"--lease-name={release}" in pod["containers"][0]["args"]
        assert [release] in [rule.get("resourceNames") for rule in role["rules"]]
