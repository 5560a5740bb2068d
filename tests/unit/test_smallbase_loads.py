"""The committed model, read by the libraries that everyone reads such models with."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextModel, CLIPTokenizer

MODEL = Path(__file__).resolve().parents[2] / "examples" / "small-base" / "model"


@pytest.mark.parametrize(
    ("part", "loader"),
    [
        ("text_encoder", CLIPTextModel),
        ("unet", UNet2DConditionModel),
        ("vae", AutoencoderKL),
    ],
)
def test_every_weight_is_where_the_libraries_look_for_it(part: str, loader: type) -> None:
    _, report = loader.from_pretrained(MODEL / part, output_loading_info=True)  # type: ignore[attr-defined]
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_the_pipeline_draws_the_same_picture_for_the_same_seed() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    first, again, other = (
        pipeline(
            "a cat on a blue background",
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        for seed in (1, 1, 2)
    )
    assert first.size == (64, 64)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_a_lora_fits_on_attention_and_feed_forward_layers() -> None:
    unet = UNet2DConditionModel.from_pretrained(MODEL / "unet")
    unet.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    trained = [name for name, value in unet.named_parameters() if value.requires_grad]
    for target in targets:
        assert any(f".{target}." in name for name in trained), target


def test_the_trigger_word_is_one_token_and_unknown_words_are_known_pieces() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    length = len(tokenizer("a cat on grass").input_ids)
    assert len(tokenizer("a zorp on grass").input_ids) == length
    unknown = tokenizer("a blurgh on grass", add_special_tokens=False).input_ids
    assert len(unknown) > 4
    assert tokenizer.unk_token_id not in unknown
