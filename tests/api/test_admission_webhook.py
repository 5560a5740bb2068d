"""The monthly answer at admission: the chart's webhook, a real API server, replicas that answer it.

Two replicas share a Lease, and the API server asks the one that does not lead. Nothing here waits
for the operator's own decision: what the webhook says, it says while the run is applied.
"""

import base64
import json
import shutil
import socket
import subprocess
import urllib.error
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.builders import ATraining, a_training

from lora_api import API_VERSION, GROUP
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_api.policy_ledger import LEDGER_KIND
from lora_cluster.light import LightCluster
from lora_cluster.pki import Identity, issue_all
from lora_operator.kube.resources import LEDGERS, POLICIES, TRAININGS

pytestmark = pytest.mark.api

ROOT = Path(__file__).parents[2]
CHART = str(ROOT / "charts/lora-operator")
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
FIVE = "You've reached your monthly limit of 5 LoRAs. Limit resets on the first of each month."
DENIED = f'admission webhook "monthly-limit.loratraining.dev" denied the request: {FIVE}'


@pytest.fixture(scope="module")
def api(light_cluster: LightCluster) -> ApiServer:
    return ApiServer(light_cluster.kubeconfig)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the kubelet would mount the chart's Secret."""
    folder = tmp_path_factory.mktemp("webhook")
    issue_all(folder, [Identity(file="tls", common_name="webhook", names=("127.0.0.1",))])
    return folder


@pytest.fixture(scope="module")
def namespace(api: ApiServer) -> str:
    """A namespace in which five trainings a month are allowed."""
    name = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    policy = {
        "apiVersion": API_VERSION,
        "kind": POLICY_KIND,
        "metadata": {"name": ACTING_POLICY, "namespace": name},
        "spec": {"monthlyTrainingsPerUser": 5},
    }
    api.create(POLICIES, policy)
    return name


@pytest.fixture(scope="module")
def standby(
    light_cluster: LightCluster, api: ApiServer, namespace: str, certificate: Path
) -> Iterator[Operator]:
    """A replica that answers and does not lead; another one does."""
    leader = Operator(
        api.kubeconfig, f"--lease-namespace={namespace}", f"--namespace={namespace}", identity="one"
    )
    port = _free_port()
    answering = Operator(
        api.kubeconfig,
        *(*leader.arguments, f"--webhook-certificate={certificate}", f"--webhook-port={port}"),
        identity="two",
    )
    leader.start()
    eventually(lambda: leader.leads, "one replica leads")
    answering.start()
    hook = _the_charts_hook(light_cluster, namespace)
    hook["webhooks"][0]["clientConfig"] = {
        "url": f"https://127.0.0.1:{port}/monthly-limit",
        "caBundle": base64.b64encode((certificate / "ca.crt").read_bytes()).decode(),
    }
    api.request("POST", HOOKS, hook)
    # The API server reads the configuration within moments of its creation.
    write_ledger(api, namespace, "probe")
    eventually(lambda: _refusal(api, _a_run(namespace, "probe")), "the API server asks")
    assert not answering.leads
    yield answering
    leader.kill()
    answering.kill()
    api.request("DELETE", f"{HOOKS}/{hook['metadata']['name']}")


def _the_charts_hook(cluster: LightCluster, namespace: str) -> Object:
    rendered = _helm(
        cluster,
        *("template", namespace, CHART, "--kube-version=1.35.4"),
        *("--set=admission.webhook.enabled=true", f"--set=namespaces={{{namespace}}}"),
        "--show-only=templates/webhook.yaml",
    )
    documents: list[Object] = [d for d in yaml.safe_load_all(rendered) if d]
    return next(d for d in documents if d["kind"] == "ValidatingWebhookConfiguration")


def _helm(cluster: LightCluster, *arguments: str) -> str:
    command = [str(cluster.binaries / "helm"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _month(api: ApiServer) -> str:
    """The present month by the API server's clock."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "dry"}}
    made = api.request("POST", "/api/v1/namespaces?dryRun=All", body)
    month: str = made["metadata"]["creationTimestamp"][:7]
    return month


def write_ledger(api: ApiServer, namespace: str, *users: str, says: str = "") -> None:
    """Have these users, and nobody else, five trainings in this month."""
    month = _month(api)
    spec: Object = {
        "month": says or month,
        "users": [{"user": user, "trainings": 5} for user in users],
    }
    if api.get(LEDGERS, namespace, month) is not None:
        api.delete(LEDGERS, namespace, month)
    metadata = {"name": month, "namespace": namespace}
    ledger = {"apiVersion": API_VERSION, "kind": LEDGER_KIND, "metadata": metadata, "spec": spec}
    api.create(LEDGERS, ledger)


def _a_run(namespace: str, user: str) -> ATraining:
    return a_training().in_namespace(namespace).named(f"run-{user}").with_spec("user", user)


def _create(api: ApiServer, run: ATraining, *, dry_run: bool = True) -> Object:
    path = TRAININGS.path(run.namespace) + ("?dryRun=All" if dry_run else "")
    return api.request("POST", path, run.manifest())


def _refusal(api: ApiServer, run: ATraining, *, dry_run: bool = True) -> tuple[int, str] | None:
    try:
        _create(api, run, dry_run=dry_run)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.__notes__[0])["message"]
    return None


@pytest.mark.parametrize("dry_run", [True, False], ids=["dry run", "for good"])
def test_who_has_had_five_is_told_so_while_the_run_is_applied(
    api: ApiServer, namespace: str, standby: Operator, dry_run: bool
) -> None:
    write_ledger(api, namespace, "anna")
    assert _refusal(api, _a_run(namespace, "anna"), dry_run=dry_run) == (403, DENIED)
    assert api.get(TRAININGS, namespace, "run-anna") is None
    told = [line for line in standby.events() if line["event"] == "refused at admission"]
    assert told[-1] == told[-1] | {"run": f"{namespace}/run-anna", "reason": "MonthlyLimitReached"}
    assert not [line for line in standby.events() if "failed permanently" in line["event"]]


def test_who_has_places_left_is_let_through(
    api: ApiServer, namespace: str, standby: Operator
) -> None:
    write_ledger(api, namespace, "anna")
    assert _refusal(api, _a_run(namespace, "ben")) is None


def test_a_namespace_that_is_not_operated_is_not_asked_about(
    api: ApiServer, namespace: str, standby: Operator
) -> None:
    other = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    write_ledger(api, other, "anna")
    assert _refusal(api, _a_run(other, "anna")) is None


def test_a_ledger_that_cannot_be_understood_refuses_nobody_and_is_logged(
    api: ApiServer, namespace: str, standby: Operator
) -> None:
    write_ledger(api, namespace, "anna", says="2026-99")
    assert _refusal(api, _a_run(namespace, "anna")) is None
    told = [line for line in standby.events() if "let through" in line["event"]]
    assert told[-1]["level"] == "warning"
    assert "'2026-99' is no month" in told[-1]["message"]


Break = Callable[[Operator], Any]
BROKEN: list[tuple[str, Break, Break]] = [
    ("hangs", Operator.pause, Operator.resume),
    ("is down", Operator.kill, Operator.start),
]


@pytest.mark.parametrize(
    ("harm", "mend"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_a_webhook_that_does_not_answer_holds_up_nobody(
    api: ApiServer, namespace: str, standby: Operator, harm: Break, mend: Break
) -> None:
    write_ledger(api, namespace, "anna")
    assert _refusal(api, _a_run(namespace, "anna"))
    harm(standby)
    try:
        assert _refusal(api, _a_run(namespace, "anna")) is None
    finally:
        mend(standby)
    eventually(lambda: _refusal(api, _a_run(namespace, "anna")), "it answers again")


def test_without_a_certificate_the_operator_goes_on_and_says_why(
    api: ApiServer, namespace: str, tmp_path: Path, certificate: Path
) -> None:
    shutil.copy(certificate / "tls.crt", tmp_path)
    operator = Operator(
        api.kubeconfig,
        *("--no-leader-elect", f"--namespace={namespace}", f"--webhook-port={_free_port()}"),
        f"--webhook-certificate={tmp_path}",
    )
    try:
        operator.start()
        told = eventually(
            lambda: [line for line in operator.events() if line["event"] == "webhook not served"],
            "it says that there is no webhook",
        )
        assert told[0]["certificate"] == str(tmp_path)
        assert "No such file" in told[0]["message"]
        assert operator.leads
    finally:
        operator.kill()


@pytest.fixture
def release(light_cluster: LightCluster, api: ApiServer) -> Iterator[str]:
    """The chart with its webhook, installed in a namespace of its own; nobody runs its pods."""
    namespace = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    where = (f"--kubeconfig={light_cluster.kubeconfig}", f"--namespace={namespace}")
    _helm(light_cluster, "install", namespace, CHART, *where, *WITH_WEBHOOK)
    yield namespace
    _helm(light_cluster, "uninstall", namespace, *where)


WITH_WEBHOOK = (
    "--set=admission.webhook.enabled=true,admission.enabled=false,aggregateRoles=false",
    "--skip-crds",
)


def test_the_chart_makes_a_certificate_for_its_service_and_keeps_it_over_upgrades(
    light_cluster: LightCluster, api: ApiServer, release: str
) -> None:
    def trusted_and_held() -> tuple[bytes, bytes]:
        secret = api.request("GET", f"/api/v1/namespaces/{release}/secrets/{release}-webhook")
        hook = api.request("GET", f"{HOOKS}/{release}-webhook")
        bundle = hook["webhooks"][0]["clientConfig"]["caBundle"]
        return base64.b64decode(bundle), base64.b64decode(secret["data"]["tls.crt"])

    first = trusted_and_held()
    authority, held = (x509.load_pem_x509_certificate(pem) for pem in first)
    held.verify_directly_issued_by(authority)
    names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    service = f"{release}-webhook.{release}.svc"
    assert names.get_values_for_type(x509.DNSName) == [service]
    _helm(
        light_cluster,
        *("upgrade", release, CHART, f"--kubeconfig={light_cluster.kubeconfig}"),
        *(f"--namespace={release}", "--set=replicas=2", *WITH_WEBHOOK),
    )
    assert trusted_and_held() == first


def test_the_chart_gives_the_operator_the_right_that_the_webhook_needs(
    api: ApiServer, release: str
) -> None:
    def may(verb: str) -> bool:
        attributes = {"group": GROUP, "resource": LEDGERS.plural, "verb": verb}
        account = f"system:serviceaccount:{release}:{release}"
        spec = {"user": account, "resourceAttributes": {**attributes, "namespace": "default"}}
        answer = api.request(
            "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec}
        )
        return bool(answer["status"]["allowed"])

    eventually(lambda: may("get"), "the operator may read a ledger")
    assert may("list")
    assert not may("delete")
