"""Whatever a job document holds: it is a job, or every wrong field is named by its path."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_api.exit_codes import ExitCode
from lora_api.job import JobDocument
from lora_api.reasons import Reason
from lora_trainer.cli import main
from lora_trainer.errors import TrainerError
from lora_trainer.plan import parse_job

VALID: dict[str, Any] = {
    "version": "v1",
    "name": "zorp",
    "runId": "run-1",
    "recipe": "sd15",
    "baseModel": {"uri": "file:///base"},
    "dataset": {
        "uris": ["s3://data/a.png", "s3://data/b.png"],
        "triggerWord": "zorp",
        "captionTemplate": "a {trigger}",
        "shuffleCaptions": True,
        "keepTags": 2,
        "captionDropout": 0.1,
        "repeats": 2,
        "minImages": 1,
        "maxImages": 9,
        "minFileBytes": 0,
        "maxFileBytes": 5000,
        "minSidePixels": 64,
        "onInvalidFiles": "Skip",
    },
    "network": {"rank": 4, "alpha": 2.5, "dropout": 0.1, "targetModules": ["to_q", "to_k"]},
    "optimization": {
        "steps": 4,
        "batchSize": 2,
        "learningRate": 1e-3,
        "optimizer": "prodigy",
        "lrScheduler": "linear",
        "resolution": 64,
        "seed": 7,
    },
    "checkpoints": {"everySteps": 2, "keep": 1},
    "validation": {"prompts": ["zorp", "a zorp"], "gate": {"minAlike": 1}},
    "output": {"uri": "s3://models/zorp", "tensorboard": True},
    "server": {"host": "127.0.0.1", "port": 8080},
    "limits": {"stallTimeoutSeconds": 60},
}
Path_ = tuple[str | int, ...]


def _places(node: Any, path: Path_ = ()) -> list[Path_]:  # noqa: ANN401
    """The path of every value of a document, sections included."""
    found = [path] if path else []
    children = dict(enumerate(node)) if isinstance(node, list) else node
    for key, value in children.items() if isinstance(children, dict) else ():
        found += _places(value, (*path, key))
    return found


PLACES = _places(VALID)
# Of any field in VALID, each of these is of the wrong type, out of bounds or wrongly spelled.
WRONG: list[Any] = [None, {"surprise": 1}, [[]], -1e300, "\ud800", [None], {}, ""]


def _having(document: dict[str, Any], path: Path_, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    node: Any = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return changed


def _spelled(path: Path_) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _faults(document: object) -> str:
    """What is wrong; empty where nothing is. Anything but an InvalidJob fails the test."""
    try:
        parse_job(json.dumps(document))
    except TrainerError as error:
        assert error.reason is Reason.INVALID_JOB
        assert error.exit_code is ExitCode.BAD_INPUT
        return error.message
    return ""


def _wrong_for(path: Path_) -> list[Any]:
    """Values that this field can't have, whatever the others are."""
    return [value for value in WRONG if _spelled(path) in _faults(_having(VALID, path, value))]


REFUSED = {path: _wrong_for(path) for path in PLACES}


def test_the_document_that_is_spoilt_here_is_valid() -> None:
    assert _faults(VALID) == ""


@pytest.mark.parametrize("path", PLACES, ids=_spelled)
def test_every_field_can_be_wrong(path: Path_) -> None:
    assert REFUSED[path]


@given(st.data())
def test_every_wrong_field_is_named_at_once(data: st.DataObject) -> None:
    chosen: list[Path_] = data.draw(st.lists(st.sampled_from(PLACES), min_size=1, unique=True))
    # A section that is wrong as a whole has no fields to be wrong.
    paths = [path for path in chosen if not any(path[: len(o)] == o and path != o for o in chosen)]
    spoilt = VALID
    for path in paths:
        spoilt = _having(spoilt, path, data.draw(st.sampled_from(REFUSED[path])))
    message = _faults(spoilt)
    assert all(_spelled(path) in message for path in paths), message


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(PLACES), anything)
@settings(max_examples=300)
def test_any_value_anywhere_is_accepted_or_named_in_our_words(path: Path_, value: object) -> None:
    message = _faults(_having(VALID, path, value))
    section = _spelled(path[:-1])
    assert not message or _spelled(path) in message or section in message
    for foreign in ("Input should", "dictionary", "instance of", "validation error", "Python"):
        assert foreign not in message.replace(json.dumps(value), "")


@given(anything)
def test_any_document_at_all_is_answered_with_a_sentence(document: object) -> None:
    assert _faults(document)


@given(st.text())
def test_any_text_at_all_is_answered_with_a_sentence(text: str) -> None:
    with pytest.raises(TrainerError) as caught:
        parse_job(text)
    assert caught.value.reason is Reason.INVALID_JOB


@given(st.sampled_from(sorted(JobDocument.model_fields)), st.text(min_size=1))
def test_an_unknown_field_is_named_wherever_it_is(section: str, name: str) -> None:
    node = VALID.get(section)
    document = (
        {**VALID, section: {**node, f"x{name}": 1}}
        if isinstance(node, dict)
        else {
            **VALID,
            f"x{name}": 1,
        }
    )
    assert "there is no such field" in _faults(document)


def test_the_command_line_names_every_fault_and_does_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(_having(_having(VALID, ("network", "rank"), 0), ("name",), 5)))
    assert main(["run", str(path), "--check"]) == ExitCode.BAD_INPUT
    said = capsys.readouterr()
    assert "network.rank: must be at least 1" in said.err + said.out
    assert "name: must be a text" in said.err + said.out
    assert list(tmp_path.iterdir()) == [path]
