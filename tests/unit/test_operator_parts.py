"""The operator's small parts: cache, status patch, events, texts, command line, figures."""

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from tests.builders import NOW, RUN_UID, a_job, a_pod, a_training
from tests.builders import stamp as written
from tests.sights import a_progress, seen

from lora_api.progress import Stage
from lora_api.status import Phase
from lora_operator.__main__ import parse
from lora_operator.api_watch import _resource, _verb
from lora_operator.cache import Cache
from lora_operator.kube.resources import JOBS, LEASES, PODS, TRAININGS
from lora_operator.labels import RUN_LABEL, job_name, run_of_job, upload_job_name
from lora_operator.logs import JsonFormatter, TextFormatter
from lora_operator.metrics import Metrics
from lora_operator.observe import observe
from lora_operator.run_metrics import RunCollector, bounded_reason
from lora_operator.settings import ProgressRoute
from lora_operator.state.decision import Event
from lora_operator.state.keys import Key
from lora_operator.state.text import clip, duration, quote, tail
from lora_operator.status import build_event, merge_patch

ANNA = Key("studio", "anna")


def versioned(body: dict[str, Any], version: int, **meta: str) -> dict[str, Any]:
    body["metadata"] |= {"resourceVersion": str(version), **meta}
    return body


def test_the_cache_takes_in_what_is_new() -> None:
    cache = Cache()
    assert cache.put(TRAININGS, versioned(a_training().stored(), 5))
    assert cache.put(TRAININGS, versioned(a_training().stored(), 6))


@pytest.mark.parametrize("version", [5, 4])
def test_the_cache_does_not_go_back_in_time(version: int) -> None:
    cache = Cache()
    cache.put(TRAININGS, versioned(a_training().stored(), 5))
    assert not cache.put(TRAININGS, versioned(a_training().stored(), version))


def test_versions_are_compared_as_numbers() -> None:
    cache = Cache()
    cache.put(TRAININGS, versioned(a_training().stored(), 99))
    assert cache.put(TRAININGS, versioned(a_training().stored(), 100))


def test_an_object_made_again_under_the_same_name_is_news() -> None:
    cache = Cache()
    cache.put(TRAININGS, versioned(a_training().stored(), 5))
    assert cache.put(TRAININGS, versioned(a_training().stored(), 6, uid="another"))


def test_the_end_of_an_old_object_does_not_drop_its_successor() -> None:
    cache = Cache()
    cache.put(TRAININGS, versioned(a_training().stored(), 6, uid="another"))
    assert not cache.drop(TRAININGS, ANNA, uid=RUN_UID)
    assert cache.get(TRAININGS, ANNA) is not None


def test_children_are_found_by_their_run_until_they_are_gone() -> None:
    cache = Cache()
    cache.put(PODS, a_pod().stored())
    assert len(cache.children(ANNA, PODS)) == 1
    assert cache.evict(PODS, [a_pod().stored()["metadata"]["uid"], "unknown"]) == [ANNA]
    assert cache.children(ANNA, PODS) == []


def test_a_pod_with_our_labels_but_another_owner_is_not_seen() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_training().stored())
    cache.put(JOBS, a_job().stored())
    forged = a_pod().running().stored()
    forged["metadata"]["ownerReferences"][0]["uid"] = "somebody"
    cache.put(PODS, forged)
    found = observe(cache, ANNA, {forged["metadata"]["uid"]: a_progress(Stage.TRAIN, 50)})
    assert found is not None
    assert (found.pods, found.progress) == ((), None)


@pytest.mark.parametrize("label", [None, "", "ben"])
def test_jobs_and_pods_are_found_whatever_somebody_made_of_their_label(label: str | None) -> None:
    cache = Cache()
    cache.put(TRAININGS, a_training().stored())
    for resource, body in ((JOBS, a_job().stored()), (PODS, a_pod().running().stored())):
        del body["metadata"]["labels"][RUN_LABEL]
        if label is not None:
            body["metadata"]["labels"][RUN_LABEL] = label
        cache.put(resource, body)
    found = observe(cache, ANNA, {})
    assert found is not None
    assert found.job is not None
    assert len(found.pods) == 1


@pytest.mark.parametrize("run", ["anna", "anna-train", "anna-train-2", "anna-upload"])
def test_a_run_is_told_by_the_names_of_its_jobs(run: str) -> None:
    names = [job_name(run), job_name(run, 12), upload_job_name(run)]
    assert {run_of_job(name) for name in names} == {run}
    assert run_of_job(run + "s") is None


def test_a_job_with_our_name_but_another_owner_is_not_seen() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_training().stored())
    foreign = a_job().stored()
    foreign["metadata"]["ownerReferences"] = []
    cache.put(JOBS, foreign)
    found = observe(cache, ANNA, {})
    assert found is not None
    assert found.job is None


PATCHES: dict[str, tuple[Any, Any, Any]] = {
    "nothing changed": ({"a": 1}, {"a": 1}, {}),
    "a value changed": ({"a": 1}, {"a": 2}, {"a": 2}),
    "a field is new": ({}, {"a": 1}, {"a": 1}),
    "a field is gone": ({"a": 1, "b": 2}, {"b": 2}, {"a": None}),
    "a nested field is gone": ({"p": {"a": 1, "b": 2}}, {"p": {"b": 2}}, {"p": {"a": None}}),
    "lists are replaced whole": ({"l": [1, 2]}, {"l": [1]}, {"l": [1]}),
}


@pytest.mark.parametrize("sentence", PATCHES)
def test_a_patch_says_only_what_changed(sentence: str) -> None:
    old, new, patch = PATCHES[sentence]
    assert merge_patch(old, new) == patch


def test_fields_that_a_newer_version_wrote_survive_our_patch() -> None:
    # The status was read leniently, so what we do not know is in neither side of the patch.
    stored = {"phase": "Pending", "futureField": 1}
    patch = merge_patch({"phase": "Pending"}, {"phase": "Failed"})
    assert {**stored, **patch} == {"phase": "Failed", "futureField": 1}


def test_the_same_event_has_the_same_name_and_another_one_has_not() -> None:
    run = a_training().run()

    def name(message: str) -> str:
        event = Event(kind="Normal", reason="Training", message=message)
        body = build_event(run, event, NOW, "me")
        text: str = body["metadata"]["name"]
        return text

    assert name("one") == name("one")
    assert name("one") != name("two")


def test_a_change_of_phase_is_told_and_progress_is_not() -> None:
    first = seen().with_pods(a_pod().running())
    second = first.with_progress(Stage.TRAIN, 10)
    assert [event.reason for event in second.after(first).decide().events] == ["Training"]
    third = first.with_progress(Stage.TRAIN, 20)
    assert third.after(second.after(first)).decide().events == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (470, "7m50s"), (11100, "3h05m"), (187200, "2d04h"), (-5, "0s")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.text(max_size=300), st.integers(min_value=20, max_value=100))
def test_quotes_are_one_bounded_printable_line(text: str, limit: int) -> None:
    for made in (quote(text, limit), tail(text, limit)):
        assert len(made) <= limit
        assert made.isprintable()
    assert len(clip(text, limit)) <= limit


def test_a_tail_keeps_the_end() -> None:
    assert tail("a" * 1000 + "\nValueError: boom", 40).endswith("ValueError: boom")


def test_the_defaults_serve_everything_and_elect_a_leader() -> None:
    settings = parse([], {})
    assert settings.namespaces == ()
    assert settings.leader_elect
    assert settings.trainer_image == "lora-trainer:latest"
    assert settings.progress_via is ProgressRoute.AUTO


def test_namespaces_add_up() -> None:
    assert parse(["-n", "a,b", "-n", "b", "-n", "c"], {}).namespaces == ("a", "b", "c")


def test_the_environment_is_asked_after_the_command_line() -> None:
    environment = {
        "LORA_TRAINER_IMAGE": "reg/t:1",
        "LORA_OPERATOR_LEADER_ELECT": "false",
        "LORA_OPERATOR_METRICS_PORT": "9000",
        "POD_NAME": "operator-0",
        "POD_NAMESPACE": "lora-system",
    }
    settings = parse(["--metrics-port=9001"], environment)
    assert (settings.trainer_image, settings.leader_elect) == ("reg/t:1", False)
    assert (settings.port, settings.identity) == (9001, "operator-0")
    assert settings.lease_namespace == "lora-system"


def test_gpus_have_the_name_that_the_operator_is_given() -> None:
    environment = {"LORA_OPERATOR_GPU_MEMORY_LABEL": "team/mib"}
    gpu = parse(["--gpu-resource=amd.com/gpu"], environment).gpu
    assert (gpu.resource_name, gpu.memory_label) == ("amd.com/gpu", "team/mib")
    assert parse([], {}).gpu.resource_name is None


def test_a_name_that_no_resource_can_have_is_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse(["--gpu-resource=gpu"], {})
    assert "must be a resource's name such as nvidia.com/gpu" in capsys.readouterr().err


REQUESTS = {
    "a list of all namespaces": ("GET", JOBS.path(), False, ("list", "jobs")),
    "a list of one namespace": ("GET", JOBS.path("studio"), False, ("list", "jobs")),
    "a watch": ("GET", TRAININGS.path(), True, ("watch", "loratrainings")),
    "one object": ("GET", PODS.path("studio", "x"), False, ("get", "pods")),
    "a status": ("PATCH", TRAININGS.path("s", "x", "status"), False, ("patch", "loratrainings")),
    "a creation": ("POST", JOBS.path("studio"), False, ("create", "jobs")),
    "a renewal": ("PUT", LEASES.path("s", "x"), False, ("update", "leases")),
    "discovery": ("GET", "/apis/batch/v1", False, ("get", "other")),
    "the root": ("GET", "/api", False, ("get", "other")),
    "a namespace called jobs": ("GET", PODS.path("jobs"), False, ("list", "pods")),
    "a stranger's kind": ("GET", "/api/v1/secrets", False, ("get", "other")),
}


@pytest.mark.parametrize("sentence", REQUESTS)
def test_requests_are_counted_by_verb_and_kind(sentence: str) -> None:
    method, path, is_watch, expected = REQUESTS[sentence]
    resource, is_single = _resource(path)
    assert (_verb(method, is_single, is_watch), resource) == expected


def test_figures_about_runs_come_and_go_with_the_runs() -> None:
    metrics, cache = Metrics(), Cache()
    metrics.registry.register(RunCollector(cache))
    sight = seen().with_pods(a_pod().running()).with_progress(Stage.TRAIN, 40)
    cache.put(TRAININGS, a_training().with_status(sight.decide().status).stored())
    shown = generate_latest(metrics.registry).decode()
    assert 'loratraining_runs{phase="Training",recipe="sd15"} 1.0' in shown
    assert 'loratraining_progress_ratio{name="anna",namespace="studio"} 0.4' in shown
    assert 'loratraining_loss{name="anna",namespace="studio"} 0.1' in shown
    cache.drop(TRAININGS, ANNA)
    assert 'name="anna"' not in generate_latest(metrics.registry).decode()


def test_a_standby_does_not_tell_the_runs_a_second_time() -> None:
    metrics, cache = Metrics(), Cache()
    metrics.registry.register(RunCollector(cache, leads=lambda: False))
    cache.put(TRAININGS, a_training().stored())
    shown = generate_latest(metrics.registry).decode()
    assert "loratraining_runs{" not in shown
    assert 'lora_operator_cached_objects{resource="loratrainings"} 1.0' in shown


def test_users_cannot_make_up_label_values() -> None:
    metrics, cache = Metrics(), Cache()
    metrics.registry.register(RunCollector(cache))
    cache.put(TRAININGS, a_training().with_recipe("made-up").stored())
    shown = generate_latest(metrics.registry).decode()
    assert "made-up" not in shown
    assert 'loratraining_runs{phase="Pending",recipe="other"} 1.0' in shown


def test_pods_cannot_make_up_label_values() -> None:
    metrics, cache = Metrics(), Cache()
    metrics.registry.register(RunCollector(cache))
    training = a_training()
    training.status["conditions"] = [{"type": "Running", "reason": "MadeUp"}]
    cache.put(TRAININGS, training.stored())
    shown = generate_latest(metrics.registry).decode()
    assert 'loratraining_waiting_runs{reason="other"} 1.0' in shown
    assert (bounded_reason("MadeUp"), bounded_reason("OutOfMemory")) == ("other", "OutOfMemory")


def a_record(**fields: object) -> logging.LogRecord:
    record = logging.LogRecord("lora_operator", logging.INFO, "", 0, "job created", None, None)
    record.lora_fields = fields
    return record


def test_a_log_line_for_people_has_one_line_per_event() -> None:
    line = TextFormatter().format(a_record(run="studio/anna", message="two words"))
    assert line.endswith('INFO    job created run=studio/anna message="two words"')


def test_a_log_line_for_programs_is_json() -> None:
    line = json.loads(JsonFormatter().format(a_record(run="studio/anna", attempt=2)))
    assert (line["event"], line["run"], line["attempt"]) == ("job created", "studio/anna", 2)


def test_the_time_in_a_phase_is_told_from_what_is_stored() -> None:
    first = seen().with_pods(a_pod().running())
    later = NOW + timedelta(minutes=5)
    status = first.with_progress(Stage.TRAIN, 10).after(first).decide(now=later).status
    assert status is not None
    assert status.phase is Phase.TRAINING
    assert status.phase_started_at is not None
    assert written(status.phase_started_at) == written(later)
