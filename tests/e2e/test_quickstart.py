"""The demonstration's whole path, and what has to be true of its result."""

import io
import itertools
import json
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageStat
from rich.console import Console
from tests.e2e.conftest import QUICKSTART, Cluster, condition, has_ended
from tests.e2e.prometheus import Prometheus, running_prometheus

from lora_api.status import ConditionType
from lora_demo.install import CHART
from lora_demo.quickstart import RESULTS, run_quickstart

pytestmark = pytest.mark.e2e
NAMESPACE, NAME = "studio", "zorp"
DASHBOARD = json.loads((CHART / "dashboards/fleet.json").read_text(encoding="utf-8"))
# What Grafana fills in before it asks Prometheus.
VARIABLES = {"$__rate_interval": "30s", "$__range": "10m", "$namespace": ".*", "$run": ".*"}


@dataclass(frozen=True)
class Finished:
    """The ended run and what was seen of it."""

    training: dict[str, Any]
    prometheus: Prometheus
    sheet: Path

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.training["status"]
        return status


def _let_one_run_fail(cluster: Cluster) -> None:
    """So that the dashboard's panel of failures has something true to show."""
    training = yaml.safe_load((QUICKSTART / "loratraining.yaml").read_text(encoding="utf-8"))
    name = f"unknown-recipe-{uuid.uuid4().hex[:6]}"
    training["metadata"]["name"] = name
    training["spec"]["recipe"] = "sd99"
    cluster.make_namespace(NAMESPACE)
    cluster.create(training)
    assert cluster.wait(NAMESPACE, name, has_ended)["phase"] == "Failed"
    cluster.kubectl("delete", "loratraining", name, "-n", NAMESPACE)


@pytest.fixture(scope="module")
def finished(cluster: Cluster) -> Iterator[Finished]:
    _let_one_run_fail(cluster)
    with running_prometheus(cluster.environment) as prometheus:
        sheet = run_quickstart(cluster.environment, Console())
        yield Finished(cluster.read(NAMESPACE, NAME), prometheus, sheet)


def _sample(cluster: Cluster, number: int, seed: int, of: str) -> Image.Image:
    name = f"zorp/samples/prompt-{number:02d}-seed-{seed}-{of}.png"
    return Image.open(io.BytesIO(cluster.storage.get_object("models", name).read()))


def _colourfulness(picture: Image.Image) -> float:
    """Mean saturation of the middle, where the subject is; 0 is grey, 255 is pure colour."""
    width, height = picture.size
    middle = picture.crop((width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    mean: float = ImageStat.Stat(middle.convert("HSV").getchannel("S")).mean[0]
    return mean


NOT_AT_THE_END = frozenset(
    {
        ConditionType.RUNNING,
        ConditionType.SUSPENDED,
        ConditionType.RECONCILING,
        ConditionType.STALLED,
    }
)


def test_every_condition_says_at_the_end_what_became_of_the_run(finished: Finished) -> None:
    for kind in ConditionType:
        expected = "False" if kind in NOT_AT_THE_END else "True"
        assert condition(finished.status, kind)["status"] == expected, kind
    assert finished.status["observedGeneration"] == finished.training["metadata"]["generation"]


def test_the_lora_predicts_held_out_pictures_better_than_the_base(finished: Finished) -> None:
    measured = finished.status["validation"]
    assert measured["heldOutImages"] == 3
    # It has seen the new subject, the base has not: the difference is no matter of luck.
    assert measured["loraLoss"] < measured["baseLoss"] / 2


def test_the_stored_file_is_a_lora_in_kohya_format(finished: Finished) -> None:
    data = (RESULTS / "model.safetensors").read_bytes()
    assert len(data) == finished.status["artifact"]["sizeBytes"]
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {name for name in header if name != "__metadata__"}
    assert tensors
    assert all(name.startswith("lora_unet_") for name in tensors)
    assert {name.rpartition(".")[0] for name in tensors if name.endswith(".alpha")}
    assert header["__metadata__"]["ss_network_dim"] == "16"


def test_the_contact_sheet_is_a_picture_one_can_look_at(finished: Finished) -> None:
    with Image.open(finished.sheet) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width >= 512
        assert sheet.height >= 512
        shades = sheet.convert("L").histogram()
        assert sum(count > 0 for count in shades) > 50, "a picture, not an empty page"


def test_the_new_subject_is_drawn_by_the_lora_and_not_by_the_base(
    cluster: Cluster, finished: Finished
) -> None:
    prompts = finished.training["spec"]["validation"]["prompts"]
    for number, seed in itertools.product(
        [n for n, p in enumerate(prompts, 1) if "zorp" in p], range(3)
    ):
        base, lora = (_sample(cluster, number, seed, of) for of in ("base", "lora"))
        # The robot is grey; what the base draws for a word that it does not know is not.
        assert _colourfulness(lora) < _colourfulness(base) / 2, (prompts[number - 1], seed)


def test_the_scheduler_gave_the_pod_the_gpu_it_asked_for(
    cluster: Cluster, finished: Finished
) -> None:
    pod = cluster.core.read_namespaced_pod(finished.status["podName"], NAMESPACE)
    assert pod.spec.containers[0].resources.limits["nvidia.com/gpu"] == "1"
    assert pod.spec.node_name
    assert pod.spec.automount_service_account_token is False


def test_the_workspace_was_a_bound_claim_that_the_run_owns(
    cluster: Cluster, finished: Finished
) -> None:
    claims = cluster.core.list_namespaced_persistent_volume_claim(NAMESPACE).items
    owned = [
        claim
        for claim in claims
        if claim.metadata.owner_references
        and claim.metadata.owner_references[0].uid == finished.training["metadata"]["uid"]
    ]
    assert [claim.status.phase for claim in owned] == ["Bound"]


def test_events_tell_the_story(cluster: Cluster, finished: Finished) -> None:
    uid = finished.training["metadata"]["uid"]
    events = cluster.core.list_namespaced_event(
        NAMESPACE, field_selector=f"involvedObject.uid={uid}"
    ).items
    assert "Completed" in {event.reason for event in events}


def queries() -> list[tuple[str, str]]:
    """Title and query of every target of every panel."""
    return [
        (panel["title"], target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.mark.parametrize(("title", "query"), queries(), ids=[title for title, _ in queries()])
def test_every_query_of_the_dashboard_returns_data(
    finished: Finished, title: str, query: str
) -> None:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert finished.prometheus.series(query), f"{title}: no data for {query}"


def test_deleting_a_run_removes_all_it_made(cluster: Cluster, finished: Finished) -> None:
    uid = finished.training["metadata"]["uid"]
    cluster.kubectl("delete", "loratraining", NAME, "-n", NAMESPACE, "--wait")
    selector = f"loratraining.dev/run-uid={uid}"
    for kind in ("job", "pod", "pvc"):
        cluster.kubectl(
            "wait", "--for=delete", kind, "-n", NAMESPACE, "-l", selector, "--timeout=90s"
        )
        left = cluster.kubectl("get", kind, "-n", NAMESPACE, "-l", selector, "-o", "name")
        assert left.strip() == ""
