"""Every kind of bad input ends with its reason, names the file or field, and says the cure."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from tests.trainer.jobs import AJob
from tests.trainer.tiny import make_pictures, picture_of

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_api.result import Outcome

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """How the folder is spoiled, and what the message must say."""

    spoil: Spoil
    reason: Reason
    words: tuple[str, ...]


def _delete(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def _bomb(folder: Path) -> None:
    """A PNG whose header claims 400 megapixels, in 100 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    (folder / "bomb.png").write_bytes(data + chunk(b"IEND", b""))


def _animation(folder: Path) -> None:
    frames = [picture_of(index) for index in range(3)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])


def _many_faults(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"")
    (folder / "b.jpg").write_bytes(b"%PDF-1.7 not a picture")
    picture_of(1, side=16).save(folder / "c.png")
    (folder / "picture-01.txt").write_bytes(b"\xff\xfe\x00")


DATASETS: dict[str, Case] = {
    "two pictures where three are needed": Case(
        lambda folder: _delete(*(folder / f"picture-0{i}.png" for i in (2, 3, 4))),
        Reason.TOO_FEW_IMAGES,
        ("2 pictures", "dataset.minImages is 3"),
    ),
    "21 pictures where 20 are allowed": Case(
        lambda folder: make_pictures(folder, 21),
        Reason.TOO_MANY_IMAGES,
        ("21 pictures", "dataset.maxImages is 20"),
    ),
    "an empty folder": Case(
        lambda folder: _delete(*folder.iterdir()),
        Reason.OBJECT_NOT_FOUND,
        ("dataset.uri", "nothing lies"),
    ),
    "no folder": Case(shutil.rmtree, Reason.OBJECT_NOT_FOUND, ("dataset.uri", "nothing lies")),
    "a picture that is cut off": Case(
        lambda folder: _truncate(folder / "picture-01.png"),
        Reason.INVALID_IMAGES,
        ("picture-01.png", "damaged"),
    ),
    "a text that is called a picture": Case(
        lambda folder: (folder / "notes.jpg").write_text("not a picture at all"),
        Reason.INVALID_IMAGES,
        ("notes.jpg", "not a JPG, PNG or WebP"),
    ),
    "a GIF": Case(
        lambda folder: picture_of(1).save(folder / "old.gif"),
        Reason.INVALID_IMAGES,
        ("old.gif", "not a JPG, PNG or WebP"),
    ),
    "an empty picture": Case(
        lambda folder: (folder / "zero.png").touch(),
        Reason.INVALID_IMAGES,
        ("zero.png", "is empty"),
    ),
    "a picture smaller than the resolution": Case(
        lambda folder: picture_of(9, side=40).save(folder / "small.png"),
        Reason.INVALID_IMAGES,
        ("small.png", "40 x 40", "at least 64", "dataset.minSidePixels"),
    ),
    "a decompression bomb": Case(_bomb, Reason.INVALID_IMAGES, ("bomb.png", "20000 x 20000")),
    "an animation": Case(_animation, Reason.INVALID_IMAGES, ("moving.webp", "animated")),
    "a caption that is not UTF-8": Case(
        lambda folder: (folder / "picture-01.txt").write_bytes("Müller".encode("latin-1")),
        Reason.INVALID_CAPTIONS,
        ("picture-01.txt", "not UTF-8"),
    ),
    "an empty caption": Case(
        lambda folder: (folder / "picture-01.txt").write_text(" \n"),
        Reason.INVALID_CAPTIONS,
        ("picture-01.txt", "is empty"),
    ),
    "many faults at once": Case(
        _many_faults, Reason.INVALID_IMAGES, ("a.png", "b.jpg", "c.png", "picture-01.txt")
    ),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_bad_dataset_is_refused_by_name(name: str, job: AJob, tmp_path: Path) -> None:
    case = DATASETS[name]
    folder = make_pictures(tmp_path / "own")
    case.spoil(folder)
    code, result = job.having("dataset.uri", f"file://{folder}").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, case.reason), result.message
    assert result.outcome is Outcome.FAILED
    assert not result.retryable
    assert all(word in result.message for word in case.words), result.message


BASES: dict[str, Case] = {
    "no model at all": Case(shutil.rmtree, Reason.BASE_MODEL_NOT_FOUND, ("baseModel.uri",)),
    "no index": Case(
        lambda folder: (folder / "model_index.json").unlink(),
        Reason.BASE_MODEL_NOT_FOUND,
        ("model_index.json", "diffusers layout"),
    ),
    "pickled weights": Case(
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").rename(
            folder / "unet/diffusion_pytorch_model.bin"
        ),
        Reason.BASE_MODEL_INVALID,
        ("unet/diffusion_pytorch_model.bin", "pickled", "safe_serialization"),
    ),
    "weights that are cut off": Case(
        lambda folder: _truncate(folder / "vae/diffusion_pytorch_model.safetensors"),
        Reason.BASE_MODEL_INVALID,
        ("vae/diffusion_pytorch_model.safetensors", "cut off"),
    ),
    "two components missing": Case(
        lambda folder: _delete(*folder.glob("vae/*"), *folder.glob("tokenizer/*")),
        Reason.BASE_MODEL_INVALID,
        ("vae/ is missing", "tokenizer/ is missing"),
    ),
    "a config that is not JSON": Case(
        lambda folder: (folder / "unet/config.json").write_text("{"),
        Reason.BASE_MODEL_INVALID,
        ("unet/config.json", "not readable JSON"),
    ),
    "an inpainting model": Case(
        lambda folder: _change_config(folder / "unet/config.json", in_channels=9),
        Reason.BASE_MODEL_INVALID,
        ("9 channels", "inpainting"),
    ),
    "a text encoder of another width": Case(
        lambda folder: _change_config(folder / "text_encoder/config.json", hidden_size=64),
        Reason.BASE_MODEL_INVALID,
        ("width 32", "64"),
    ),
}


def _change_config(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", BASES)
def test_a_bad_base_model_is_refused_before_it_is_loaded(
    name: str, job: AJob, tmp_path: Path, base_model: Path
) -> None:
    case = BASES[name]
    folder = shutil.copytree(base_model, tmp_path / "base")
    case.spoil(folder)
    code, result = job.having("baseModel.uri", f"file://{folder}").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, case.reason), result.message
    assert all(word in result.message for word in case.words), result.message


SETTINGS: dict[str, tuple[str, object, Reason, tuple[str, ...]]] = {
    "a target module that does not exist": (
        "network.targetModules",
        ["to_q", "to_quarry"],
        Reason.TARGET_MODULES_NOT_FOUND,
        ("network.targetModules", "'to_quarry'", "to_q"),
    ),
    "a target module that can't be adapted": (
        "network.targetModules",
        ["norm1"],
        Reason.TARGET_MODULES_NOT_FOUND,
        ("'norm1'", "not a linear or convolution layer"),
    ),
    "more held-out pictures than there are": (
        "validation.heldOutImages",
        5,
        Reason.TOO_FEW_IMAGES,
        ("validation.heldOutImages is 5",),
    ),
    "neither captions nor a trigger word": (
        "dataset.triggerWord",
        None,
        Reason.INVALID_CAPTIONS,
        ("picture-01.png", "dataset.triggerWord"),
    ),
    "an output that is a file": (
        "output.uri",
        "file:///dev/null/models",
        Reason.OUTPUT_NOT_WRITABLE,
        ("output.uri", "/dev/null"),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_do_not_fit_the_data_are_refused(name: str, job: AJob) -> None:
    path, value, reason, words = SETTINGS[name]
    code, result = job.having(path, value).run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, reason), result.message
    assert all(word in result.message for word in words), result.message


def test_all_faults_of_a_job_document_are_named_at_once(job: AJob) -> None:
    spoiled = job.having("recipe", "sd99").having("network.rank", 0).having("surprise", 1)
    code, result = spoiled.having("output", {}).run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.INVALID_JOB)
    for word in ("recipe", "'sd99'", "network.rank", "surprise", "output.uri"):
        assert word in result.message


def test_a_model_of_another_run_is_not_written_over(job: AJob) -> None:
    first = job.with_steps(1)
    assert first.run()[0] == ExitCode.OK
    model = first.model
    other = first.having("runId", "run-2").having("optimization.seed", 9)
    code, result = AJob(other.folder, other.body, "other-workspace").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.OUTPUT_NOT_WRITABLE)
    assert "'run-1'" in result.message
    assert "another output.uri" in result.message
    assert first.model == model


def test_jobs_without_run_id_are_strangers_to_each_other_but_not_to_themselves(job: AJob) -> None:
    body = {name: value for name, value in job.with_steps(1).body.items() if name != "runId"}
    first = AJob(job.folder, body)
    assert first.run()[0] == ExitCode.OK
    model = first.model
    other = first.having("optimization.seed", 9)
    code, result = AJob(other.folder, other.body, "other-workspace").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.OUTPUT_NOT_WRITABLE)
    assert first.model == model
    code, result = other.run()  # the same workspace with a changed setting is the same run
    assert code == ExitCode.OK, result.message
    assert first.model != model


def test_a_workspace_of_another_run_is_refused(job: AJob) -> None:
    job.having("dataset.uri", "file:///nowhere").run()
    code, result = job.having("runId", "run-2").run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.WORKSPACE_NOT_WRITABLE)
    assert "'run-1'" in result.message


ODD_PICTURES: dict[str, Callable[[Path], object]] = {
    "CMYK": lambda path: picture_of(0).convert("CMYK").save(path, "JPEG"),
    "grey": lambda path: picture_of(0).convert("L").save(path, "PNG"),
    "16 bit": lambda path: Image.new("I;16", (72, 72), 40_000).save(path, "PNG"),
    "palette with transparency": lambda path: (
        picture_of(0).convert("P").save(path, "PNG", transparency=0)
    ),
    "alpha": lambda path: picture_of(0).convert("RGBA").save(path, "WEBP"),
    "a PNG called .jpg": lambda path: picture_of(0).save(path, "PNG"),
}


def test_odd_but_good_pictures_are_trained_on(job: AJob, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for index, save in enumerate(ODD_PICTURES.values()):
        save(folder / f"odd-{index}.jpg")
    code, result = job.having("dataset.uri", f"file://{folder}").with_steps(1).run()
    assert code == ExitCode.OK, result.message
    report = json.loads((job.output / "report.json").read_text())
    assert len(report["pictures"]) == len(ODD_PICTURES)
