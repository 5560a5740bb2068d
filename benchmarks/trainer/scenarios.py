"""What is trained: base models and pictures that every trainer gets alike.

A module of its own because the comparison is only as fair as its inputs: one folder of pictures
with both kinds of captions, one base model in the layout that all of them read.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

ROOT = Path(__file__).parents[2]
SMALL_BASE = ROOT / "examples" / "small-base" / "model"
PICTURES = ROOT / "examples" / "quickstart" / "dataset"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One training that is done by each trainer."""

    name: str
    """Its name in the table."""

    base: Path
    """Base model in diffusers layout."""

    resolution: int
    """Side of the training square in pixels."""

    batch_size: int
    """Pictures per step."""

    steps: int
    """Optimiser steps."""

    standard_size: bool
    """Whether the UNet has SD 1.5's own shape, the only one that sd-scripts can load."""

    rank: int = 16
    """Rank and alpha of the LoRA."""


def scenarios(folder: Path, *, small_steps: int, full_steps: int) -> list[Scenario]:
    """The small base model, and SD 1.5's full size with random weights.

    Args:
        folder: Where the full-size model is kept between runs.
        small_steps: Steps on the small one; 0 leaves it out.
        full_steps: Steps on the full-size one; 0 leaves it out.
    """
    found = []
    if small_steps:
        found.append(
            Scenario(
                name="small base, 64 px",
                base=SMALL_BASE,
                resolution=64,
                batch_size=8,
                steps=small_steps,
                standard_size=False,
            )
        )
    if full_steps:
        found.append(
            Scenario(
                name="SD 1.5 size, 128 px",
                base=full_size_model(folder / "sd15-random"),
                resolution=128,
                batch_size=1,
                steps=full_steps,
                standard_size=True,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Pictures:
    """The same pictures and captions in the two spellings that the trainers read."""

    with_texts: Path
    """A .txt file beside each picture."""

    with_metadata: Path
    """One metadata.jsonl for all, as the `datasets` library reads it."""


def prepare_pictures(folder: Path) -> Pictures:
    """Copy the quickstart's pictures.

    Args:
        folder: Made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    found = Pictures(folder / "texts", folder / "metadata")
    lines = []
    for place in (found.with_texts, found.with_metadata):
        place.mkdir(parents=True)
    for picture in sorted(PICTURES.glob("*.png")):
        caption = picture.with_suffix(".txt")
        text = caption.read_text().strip() if caption.exists() else "zorp"
        shutil.copy(picture, found.with_texts / picture.name)
        shutil.copy(picture, found.with_metadata / picture.name)
        (found.with_texts / f"{picture.stem}.txt").write_text(text)
        lines.append(json.dumps({"file_name": picture.name, "text": text}))
    (found.with_metadata / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return found


def full_size_model(folder: Path) -> Path:
    """SD 1.5's architecture (its published configs) with random weights, in half precision.

    Args:
        folder: Left alone where the model is there already; it takes 2 GB.
    """
    if (folder / "model_index.json").exists():
        return folder
    torch.manual_seed(0)
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(SMALL_BASE / name, folder / name, dirs_exist_ok=True)
    tokenizer = folder / "tokenizer" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"model_max_length": 77}))
    words = json.loads((SMALL_BASE / "text_encoder" / "config.json").read_text())
    UNet2DConditionModel(sample_size=64, cross_attention_dim=768).half().save_pretrained(
        folder / "unet"
    )
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    ).half().save_pretrained(folder / "vae")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            projection_dim=768,
            **{key: words[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        )
    ).half()
    text.config.save_pretrained(folder / "text_encoder")
    # Published models carry this prefix; transformers 5 reads it, transformers 4 needs it.
    weights = {f"text_model.{name}": value for name, value in text.state_dict().items()}
    save_file(weights, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(SMALL_BASE / "model_index.json", folder / "model_index.json")
    return folder
