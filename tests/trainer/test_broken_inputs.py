"""A hundred broken inputs: each ends in a sentence that names it, none in a traceback."""

import os
import shutil
from pathlib import Path

import pytest
from tests.broken import Broken, broken_inputs
from tests.datasets import a_dataset
from tests.trainer.jobs import AJob

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason

SEED = int(os.environ.get("SEED", "1"))
BROKEN = broken_inputs(SEED, 100)
_REASONS = {Reason.INVALID_IMAGES, Reason.INVALID_CAPTIONS, Reason.OBJECT_NOT_FOUND}


def _put(broken: Broken, folder: Path) -> None:
    for name, data in broken.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _spoken(name: str) -> str:
    """A name as a message can carry it, which is text in one line."""
    return name.encode(errors="replace").decode().split("\n")[0]


@pytest.mark.parametrize("broken", BROKEN, ids=[one.kind for one in BROKEN])
def test_a_broken_input_ends_in_a_sentence_that_names_it(
    broken: Broken, job: AJob, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(pictures, job.folder / "own"))
    _put(broken, own)
    uri = f"file://{own}"
    if broken.is_archive:
        uri += f"/{next(iter(broken.files))}"
    code, result = job.having("dataset.uri", uri).run()
    said = capfd.readouterr()
    assert code == ExitCode.BAD_INPUT, result.message
    assert result.reason in _REASONS, result.message
    assert _spoken(broken.culprit) in result.message
    assert "Traceback" not in said.out + said.err


def test_all_broken_files_of_one_folder_are_named_at_once_or_left_out(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(3).having(maxImages=200)
    spoilt = [broken for broken in BROKEN if not broken.is_archive]
    for broken in spoilt:
        _put(broken, dataset.folder)
    assert f"{len(spoilt)} files" in dataset.refusal().message
    checked = dataset.having(onInvalidFiles="Skip").checked()
    assert len(checked.samples) == 3
    assert {fault.name for fault in checked.skipped} >= {broken.culprit for broken in spoilt}


def test_the_same_seed_makes_the_same_inputs() -> None:
    assert broken_inputs(SEED, 30) == BROKEN[:30]
    assert broken_inputs(SEED + 1, 30) != BROKEN[:30]
