"""What is said of a LoRA's quality: measured where it can be, judged, and never invented."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.trainer.jobs import AJob
from tests.trainer.tiny_embedders import EMBEDDERS, SIDE, make_clip, make_dinov2

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_api.result import Result
from lora_trainer.embedder import Embedder, fetch_embedder
from lora_trainer.errors import TrainerError
from lora_trainer.sample import Drawn
from lora_trainer.similarity import measure_similarity
from lora_trainer.storage.local import LocalStorage

pytestmark = pytest.mark.trainer
CPU = torch.device("cpu")


def _report(job: AJob) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((job.output / "report.json").read_text())
    return report


def _embedder(folder: Path) -> Embedder:
    storage = LocalStorage(f"file://{folder}", field="validation.embedderUri")
    return Embedder(fetch_embedder(storage, folder, advance=lambda *_: None), CPU)


def test_without_an_embedder_no_similarity_is_claimed(finished: tuple[AJob, Result]) -> None:
    job, result = finished
    assert result.validation is not None
    assert (result.validation.alike, result.validation.compared) == (None, None)
    assert _report(job)["similarity"] == {"embedder": None, "prompts": []}


def test_the_gate_says_of_each_criterion_whether_it_was_reached(
    finished: tuple[AJob, Result],
) -> None:
    job, result = finished
    gate = _report(job)["gate"]
    assert [one["criterion"] for one in gate["criteria"]] == ["Renders", "Alike", "HeldOutLoss"]
    renders, alike, held_out = (one["passed"] for one in gate["criteria"])
    assert (renders, alike) == (True, None)
    assert result.validation is not None
    assert result.validation.improvement_percent is not None
    assert held_out == (result.validation.improvement_percent > 0)
    assert gate["passed"] == result.validation.passed == held_out


@pytest.mark.parametrize("family", EMBEDDERS)
def test_an_embedder_compares_each_prompt_with_the_training_pictures(
    family: str, job: AJob, tmp_path: Path
) -> None:
    embedder = EMBEDDERS[family](tmp_path / family)
    prompts = ["zorp", "zorp in a park", "zorp running"]
    asked = (
        job.with_steps(2)
        .having("validation.prompts", prompts)
        .having("validation.embedderUri", f"file://{embedder}")
    )
    code, result = asked.run()
    assert code == ExitCode.OK, result.message
    found = _report(asked)["similarity"]
    assert found["embedder"].startswith("sha256:")
    assert [one["prompt"] for one in found["prompts"]] == prompts
    assert all(-1 <= one[side] <= 1 for one in found["prompts"] for side in ("base", "lora"))
    assert result.validation is not None
    assert result.validation.compared == 3
    assert result.validation.alike == sum(one["alike"] for one in found["prompts"])


def test_a_lora_that_is_not_good_enough_is_stored_all_the_same(job: AJob) -> None:
    strict = job.with_steps(2).having("validation.gate", {"minImprovementPercent": 99})
    code, result = strict.run()
    assert code == ExitCode.OK, result.message
    assert strict.model
    assert result.validation is not None
    assert result.validation.passed is False
    assert "99 % is needed" in result.validation.reasons[0]
    assert "the gate is not passed" in result.message


def test_default_prompts_are_a_character_a_scene_and_an_action(job: AJob) -> None:
    plain = job.with_steps(1).having("validation", {"samplingSteps": 1})
    code, result = plain.run()
    assert code == ExitCode.OK, result.message
    prompts = list(dict.fromkeys(pair["prompt"] for pair in _report(plain)["samples"]))
    assert prompts == ["a portrait of zorp", "zorp in a park", "zorp running"]


@pytest.mark.parametrize("family", EMBEDDERS)
def test_what_looks_like_the_training_pictures_is_found_more_alike(
    family: str, pictures: Path, tmp_path: Path
) -> None:
    embed = _embedder(EMBEDDERS[family](tmp_path / family))
    paths = sorted(pictures.glob("*.png"))
    Image.new("RGB", (64, 64), (3, 250, 3)).save(tmp_path / "green.png")
    training = [Image.open(path) for path in paths]
    pair = Drawn(number=1, prompt="zorp", seed=0, base=tmp_path / "green.png", lora=paths[0])
    [found] = measure_similarity(embed, training, [pair], check=lambda: None)
    assert found.alike
    vectors = embed(training)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(training)), atol=1e-5)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _saying(name: str, **fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def _cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _of_another_size(folder: Path) -> None:
    shutil.copy(make_dinov2(folder / "other") / "model.safetensors", folder)


BROKEN: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "its config is missing": (_without("config.json"), ("no config.json", "save_pretrained")),
    "its preprocessing is missing": (
        _without("preprocessor_config.json"),
        ("no preprocessor_config.json",),
    ),
    "its weights are pickled": (_pickled, ("no model.safetensors", "safetensors")),
    "its weights are cut off": (_cut_off, ("model.safetensors", "cut off")),
    "it is of another family": (_saying("config.json", model_type="bert"), ("'bert'", "dinov2")),
    "it takes pictures of another size": (
        _saying("preprocessor_config.json", crop_size=56),
        ("56 pixels", f"takes {SIDE}"),
    ),
    "it gives no means": (_saying("preprocessor_config.json", image_mean=None), ("image_mean",)),
    "its config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        ("config.json", "JSON"),
    ),
    "it lacks weights": (_of_another_size, ("no fitting weights",)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_embedder_that_cannot_work_is_refused_by_name(name: str, tmp_path: Path) -> None:
    spoil, words = BROKEN[name]
    folder = make_clip(tmp_path / "clip")
    spoil(folder)
    with pytest.raises(TrainerError) as caught:
        _embedder(folder)
    assert caught.value.reason is Reason.EMBEDDER_INVALID
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert all(word in caught.value.message for word in ("validation.embedderUri", *words)), (
        caught.value.message
    )


def test_a_wrong_embedder_ends_the_run_before_anything_is_trained(
    job: AJob, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    code, result = job.having("validation.embedderUri", f"file://{tmp_path}/nothing").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.EMBEDDER_INVALID)
    assert "Train" not in result.stage_seconds
