"""What a finished run leaves behind, looked at the way its users will."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event
from tests.trainer.jobs import AJob

from lora_api.result import Outcome, Result
from lora_api.settings import DatasetSettings, NetworkSettings, OptimizationSettings
from lora_trainer.course import Course

Finished = tuple[AJob, Result]
LAYERS = [
    f"{place}_transformer_blocks_0_{attention}_{name}"
    for place in (
        "down_blocks_1_attentions_0",
        "mid_block_attentions_0",
        "up_blocks_0_attentions_0",
        "up_blocks_0_attentions_1",
    )
    for attention in ("attn1", "attn2")
    for name in ("to_q", "to_k", "to_v", "to_out_0")
]


def test_the_result_says_where_the_lora_lies_and_how_good_it_is(finished: Finished) -> None:
    job, result = finished
    assert result.outcome is Outcome.SUCCEEDED
    assert result.artifact is not None
    assert result.artifact.uri == f"{job.body['output']['uri']}/model.safetensors"
    assert result.artifact.digest == f"sha256:{hashlib.sha256(job.model).hexdigest()}"
    assert result.artifact.size_bytes == len(job.model)
    assert result.validation is not None
    assert result.validation.base_loss is not None
    assert result.validation.held_out_images == 1
    assert (result.step, result.total_steps) == (24, 24)
    assert {"Fetch", "Train", "Sample", "Publish"} <= result.stage_seconds.keys()


def test_the_report_lists_every_published_file_with_its_digest(finished: Finished) -> None:
    job, _ = finished
    report = json.loads((job.output / "report.json").read_text())
    published = {
        path.relative_to(job.output).as_posix()
        for path in job.output.rglob("*")
        if path.is_file() and path.name != "report.json"
    }
    assert set(report["files"]) == published
    assert {"model.safetensors", "config.json", "contact-sheet.png"} < published
    assert len([name for name in published if name.startswith("samples/")]) == 6
    for name, entry in report["files"].items():
        data = (job.output / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "sizeBytes": len(data)}


def test_the_file_has_exactly_the_kohya_keys_of_the_attention_layers(finished: Finished) -> None:
    tensors = load_file(finished[0].output / "model.safetensors")
    expected = {
        f"lora_unet_{layer}.{part}"
        for layer in LAYERS
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert set(tensors) == expected
    alphas = [tensor for name, tensor in tensors.items() if name.endswith(".alpha")]
    assert all(alpha.dtype == torch.float32 and alpha.shape == () for alpha in alphas)
    assert {float(alpha) for alpha in alphas} == {2.0}


def test_the_metadata_names_settings_and_sources(finished: Finished) -> None:
    job, _ = finished
    with safe_open(job.output / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    report = json.loads((job.output / "report.json").read_text())
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_network_alpha"] == "2.0"
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["modelspec.trigger_phrase"] == "zorp"
    assert metadata["lora_trainer.base_model_digest"] == report["baseModel"]["digest"]
    assert metadata["lora_trainer.dataset_digest"] == report["dataset"]["digest"]


def test_the_metadata_holds_every_setting_and_neither_times_nor_places(
    finished: Finished,
) -> None:
    job, _ = finished
    with safe_open(job.output / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    settings = json.loads(metadata["lora_trainer.settings"])
    assert settings["network"].keys() >= _spelled(NetworkSettings)
    assert settings["optimization"].keys() >= _spelled(OptimizationSettings)
    assert settings["dataset"].keys() >= _spelled(DatasetSettings) - {"uri", "uris"}
    assert settings["optimization"]["steps"] == 24
    assert settings["optimization"]["learningRate"] == 1e-3
    assert "file://" not in " ".join(metadata.values())
    assert "run-1" not in " ".join(metadata.values())  # an equal run gives equal bytes
    assert json.loads((job.output / "config.json").read_text())["runId"] == "run-1"


def _spelled(section: type[BaseModel]) -> set[str]:
    return {str(field.alias) for field in section.model_fields.values()}


def test_the_metadata_says_to_web_interfaces_what_they_show(finished: Finished) -> None:
    job, _ = finished
    with safe_open(job.output / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    expected = {
        "ss_optimizer": "torch.optim.adamw.AdamW",
        "ss_seed": "7",
        "ss_steps": "24",
        "ss_num_epochs": "12",  # 4 pictures, 2 at a time
        "ss_learning_rate": "0.001",
        "ss_base_model_version": "sd_v1",
        "ss_output_name": "test-run",
        "ss_min_snr_gamma": "None",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "test-run",
    }
    assert {name: metadata[name] for name in expected} == expected
    assert json.loads(metadata["ss_tag_frequency"])["dataset"]["zorp"] >= 3
    weights = job.model[8 + int.from_bytes(job.model[:8], "little") :]
    assert metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(weights).hexdigest()}"


def test_the_loss_curve_is_a_picture_of_the_course(finished: Finished) -> None:
    job, _ = finished
    with Image.open(job.output / "loss-curve.png") as curve:
        assert min(curve.size) >= 400
        assert len(curve.convert("RGB").getcolors(1 << 20) or []) > 20
    [course] = job.workspace.glob("course/*/course.csv")
    assert [point.step for point in Course(course).points()] == list(range(1, 25))


def test_tensorboard_events_are_stored_where_the_job_asks(job: AJob) -> None:
    asked = job.with_steps(3).having("output.tensorboard", True)
    code, result = asked.run()
    assert code == 0, result.message
    [events] = asked.output.glob("tensorboard/events.out.tfevents.*")
    steps: dict[str, list[int]] = {}
    for event in _events(events.read_bytes()):
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    assert steps["train/loss"] == steps["train/learning_rate"] == [1, 2, 3]
    assert steps["validation/lora_loss"] == [3]


def _events(data: bytes) -> Iterator[Any]:
    """The records of an event file: length, its checksum, an Event, its checksum."""
    while data:
        length = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_a_run_that_asks_for_no_events_stores_none(finished: Finished) -> None:
    assert not (finished[0].output / "tensorboard").exists()


def test_the_file_loads_into_a_fresh_pipeline_and_changes_its_pictures(
    finished: Finished, base_model: Path
) -> None:
    job, _ = finished
    unet = UNet2DConditionModel.from_pretrained(base_model / "unet").eval()
    inputs = (torch.ones(1, 4, 16, 16), torch.tensor([500]), torch.ones(1, 3, 32))
    with torch.no_grad():
        before = unet(*inputs).sample
        pipeline = StableDiffusionPipeline.from_pretrained(base_model, unet=unet)
        pipeline.load_lora_weights(job.output, weight_name="model.safetensors")
        after = unet(*inputs).sample
    assert not torch.equal(before, after)
    loaded = {name: parameter for name, parameter in unet.named_parameters() if ".lora_" in name}
    saved = load_file(job.output / "model.safetensors")
    assert len(loaded) == 2 * len(LAYERS)
    for name, parameter in loaded.items():
        path, matrix = name.removesuffix(".default_0.weight").rsplit(".lora_", 1)
        key = f"lora_unet_{path.replace('.', '_')}.lora_{'down' if matrix == 'A' else 'up'}.weight"
        assert torch.equal(parameter, saved[key]), name


def test_the_samples_of_base_and_lora_differ_and_have_the_trained_size(
    finished: Finished,
) -> None:
    job, _ = finished
    report = json.loads((job.output / "report.json").read_text())
    for pair in report["samples"]:
        base, lora = job.output / pair["base"], job.output / pair["lora"]
        assert Image.open(base).size == Image.open(lora).size == (64, 64)
        assert base.read_bytes() != lora.read_bytes()


def test_the_contact_sheet_shows_pictures_at_a_size_that_can_be_seen(finished: Finished) -> None:
    job, _ = finished
    with Image.open(job.output / "contact-sheet.png") as sheet:
        assert sheet.width >= 6 * 128
        assert sheet.height >= 2 * 128
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 100


def test_the_held_out_picture_is_not_trained_on(finished: Finished) -> None:
    job, _ = finished
    report = json.loads((job.output / "report.json").read_text())
    held_out = [picture for picture in report["pictures"] if picture["heldOut"]]
    assert len(held_out) == 1
    assert report["dataset"] | {"trainingPictures": 4, "heldOutPictures": 1} == report["dataset"]
