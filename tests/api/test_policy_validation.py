"""What a real API server says to good and mistaken policies."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.api.guarded import Guarded, Object, Person, refusal

from lora_api import API_VERSION
from lora_api.policy import POLICY_KIND, POLICY_PLURAL
from lora_api.policy_ledger import LEDGER_KIND, LEDGER_PLURAL

pytestmark = pytest.mark.api

FULL: dict[str, Any] = {
    "maxConcurrentGPUs": 8,
    "maxConcurrentGPUsPerUser": 4,
    "maxConcurrentTrainings": 20,
    "maxConcurrentTrainingsPerUser": 2,
    "monthlyTrainingsPerUser": 5,
    "monthlyBudget": {"amount": 500, "alertPercent": 75},
    "maxCostPerTraining": "2",
    "prices": {
        "perGpuHour": "1.10",
        "byNodeLabel": [
            {"key": "nvidia.com/gpu.product", "value": "NVIDIA-H100", "perGpuHour": "2.5"}
        ],
    },
    "caps": {"gpus": 4, "workspaceSize": "100Gi"},
    "allowedRecipes": ["sd15"],
    "allowedOutputPrefixes": ["s3://models/{user}/"],
    "allowedImages": ["reg.example:5000/team/"],
    "priorityClasses": [{"name": "low", "value": 0}],
    "requiredLabels": ["example.com/team"],
    "defaults": {
        "priorityClassName": "low",
        "outputPrefix": "s3://models/{user}/loras/",
        "jobSeconds": 3600,
        "workspaceRetention": "RetainOnFailure",
        "ttlSeconds": 86400,
        "nodeSelector": [{"key": "pool", "value": "gpu"}],
        "tolerations": [{"key": "nvidia.com/gpu"}],
    },
    "queue": {"preemption": "LowerPriority"},
    "gpu": {"resourceName": "nvidia.com/mig-3g.40gb"},
}

REFUSED = [
    ("fewer than no GPUs", {"maxConcurrentGPUs": -1}, "maxConcurrentGPUs"),
    ("an amount that no decimal holds", {"monthlyBudget": {"amount": 12.5}}, "amount"),
    ("a negative amount", {"monthlyBudget": {"amount": "-1"}}, "amount"),
    ("a currency in words", {"currency": "euros"}, "currency"),
    ("small letters for a currency", {"currency": "usd"}, "three capitals such as USD"),
    ("a prefix without its slash", {"allowedOutputPrefixes": ["s3://models/a"]}, "ending in '/'"),
    ("a user in the bucket", {"allowedOutputPrefixes": ["s3://{user}/"]}, "{user} may stand for"),
    ("a part of a part", {"allowedOutputPrefixes": ["s3://models/x-{user}/"]}, "{user} may stand"),
    ("a step up", {"allowedDatasetPrefixes": ["s3://models/../"]}, "must be s3://"),
    ("an image with a star", {"allowedImages": ["reg.example/*"]}, "any image below"),
    ("a label with a space", {"requiredLabels": ["my team"]}, "must be a label's key"),
    ("too many labels", {"requiredLabels": [f"l{n}" for n in range(17)]}, "requiredLabels"),
    ("a weight of a million", {"priorityClasses": [{"name": "x", "value": 10**6}]}, "value"),
    (
        "a default that is not allowed",
        {"priorityClasses": [], "defaults": {"priorityClassName": "x"}},
        "defaults.priorityClassName must be one of priorityClasses",
    ),
    (
        "a default output that nobody may name",
        {
            "allowedOutputPrefixes": ["s3://models/{user}/"],
            "defaults": {"outputPrefix": "s3://models/"},
        },
        "defaults.outputPrefix must lie under one of allowedOutputPrefixes",
    ),
    ("a default output for a local file", {"defaults": {"outputPrefix": "file:///x/"}}, "s3://"),
    ("an unknown effect", {"defaults": {"tolerations": [{"key": "a", "effect": "Go"}]}}, "NoExec"),
    ("a resource without a vendor", {"gpu": {"resourceName": "gpu"}}, "nvidia.com/gpu"),
]


@pytest.fixture(scope="module")
def admin(guarded: Guarded) -> Person:
    """Whoever writes policies."""
    return guarded.acting_as(None)


def a_policy(spec: Object) -> Object:
    metadata = {"name": "default", "namespace": "default"}
    return {"apiVersion": API_VERSION, "kind": POLICY_KIND, "metadata": metadata, "spec": spec}


def the_example() -> Object:
    """The policy that docs/policy.md shows."""
    page = (Path(__file__).parents[2] / "docs/policy.md").read_text(encoding="utf-8")
    document: Object = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert document["kind"] == POLICY_KIND
    spec: Object = document["spec"]
    return spec


@pytest.mark.parametrize(
    "spec", [FULL, {}, the_example()], ids=["every field", "no field", "the page's example"]
)
def test_a_good_policy_is_taken(admin: Person, spec: Object) -> None:
    assert admin.create(POLICY_PLURAL, a_policy(spec), strict=True)


def test_what_a_policy_does_not_say_is_filled_in(admin: Person) -> None:
    spec = admin.create(POLICY_PLURAL, a_policy({"monthlyBudget": {"amount": "9.50"}}))["spec"]
    assert spec["monthlyBudget"] == {"amount": "9.50", "alertPercent": 75}
    assert spec["currency"] == "USD"
    assert spec["queue"] == {
        "agingSeconds": 600,
        "backfillSeconds": 1800,
        "preemption": "Never",
    }


@pytest.mark.parametrize(("sentence", "spec", "told"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_mistaken_policy_is_refused_with_the_field(
    admin: Person, sentence: str, spec: Object, told: str
) -> None:
    status, message = refusal(lambda: admin.create(POLICY_PLURAL, a_policy(spec)))
    assert (status, told in message) == (422, True), (sentence, message)


def test_a_ledger_stays_that_of_its_month(admin: Person) -> None:
    metadata = {"name": "m2026-11", "namespace": "default"}
    ledger = {"apiVersion": API_VERSION, "kind": LEDGER_KIND, "metadata": metadata}
    admin.create(LEDGER_PLURAL, {**ledger, "spec": {"month": "2026-11"}}, dry_run=False)
    status, message = refusal(
        lambda: admin.patch(LEDGER_PLURAL, "default", "m2026-11", {"spec": {"month": "2026-12"}})
    )
    assert (status, "month is immutable" in message) == (422, True)
    admin.delete(LEDGER_PLURAL, "default", "m2026-11")


def test_amounts_keep_the_currency_they_were_counted_in(admin: Person) -> None:
    policy = a_policy({"currency": "USD"})
    policy["metadata"]["name"] = "priced"
    admin.create(POLICY_PLURAL, policy, dry_run=False)

    def change(currency: str) -> Object:
        return admin.patch(POLICY_PLURAL, "default", "priced", {"spec": {"currency": currency}})

    def spend(amount: str) -> None:
        status = {"status": {"spending": {"amount": amount, "currency": "EUR"}}}
        admin.patch_status(POLICY_PLURAL, "default", "priced", status)

    assert change("CHF")["spec"]["currency"] == "CHF", "nothing was ever counted"
    spend("0")
    change("EUR")
    spend("0.000001")
    status, message = refusal(lambda: change("USD"))
    assert (status, "spec.currency can't change while status.spending" in message) == (422, True)
    assert change("EUR")["spec"]["currency"] == "EUR"
    admin.delete(POLICY_PLURAL, "default", "priced")
