"""What is committed of the small base: the model's folder and the quickstart's pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "small-base" / "model"
DATASET = ROOT / "examples" / "quickstart" / "dataset"

PARTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def test_the_model_has_at_most_twenty_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 20_000_000


def test_the_model_holds_only_weights_and_text() -> None:
    suffixes = {path.suffix for path in MODEL.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".txt"}


def test_the_index_names_a_stable_diffusion_pipeline_without_a_safety_checker() -> None:
    index = json.loads((MODEL / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None]
    for part, (library, _) in (item for item in index.items() if isinstance(item[1], list)):
        assert (MODEL / part).is_dir() == (library is not None), part


@pytest.mark.parametrize("part", sorted(PARTS))
def test_the_weights_are_half_precision_and_finite(part: str) -> None:
    with safe_open(MODEL / part / PARTS[part], framework="np") as tensors:
        for key in tensors.keys():  # noqa: SIM118  # not a mapping
            values = tensors.get_tensor(key)
            assert values.dtype == "float16", key
            assert abs(values).max() < 1e4, key


def test_the_parts_fit_together() -> None:
    unet, vae, text = (
        json.loads((MODEL / part / "config.json").read_text())
        for part in ("unet", "vae", "text_encoder")
    )
    assert unet["cross_attention_dim"] == text["hidden_size"]
    assert unet["in_channels"] == vae["latent_channels"]
    downsampling = 2 ** (len(vae["block_out_channels"]) - 1)
    assert unet["sample_size"] * downsampling == vae["sample_size"] == 64


def test_each_training_picture_has_a_caption_with_the_trigger_word() -> None:
    pictures = sorted(DATASET.glob("*.png"))
    assert 8 <= len(pictures) <= 16
    assert {path.stem for path in DATASET.glob("*.txt")} == {path.stem for path in pictures}
    for path in pictures:
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert image.size == (128, 128)
        assert "zorp" in path.with_suffix(".txt").read_text().split()
