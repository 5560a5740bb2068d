"""A Stable Diffusion 1.5 in miniature with random weights, made in a second.

It draws nothing, but it loads, trains, saves and reloads like the real one.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from tests.trainer.tiny_clip import WIDTH, make_clip
from tests.trainer.tiny_vae import make_vae
from transformers import CLIPTextModel


def make_base_model(folder: Path) -> Path:
    """Write the model in diffusers layout; the same bytes each time."""
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    make_vae(folder)
    make_clip(CLIPTextModel, folder, layers=1)
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def make_pictures(folder: Path, count: int = 5, *, side: int = 72) -> Path:
    """Write pictures of coloured squares that differ from each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture_of(index, side=side).save(folder / f"picture-{index:02d}.png")
    return folder


def picture_of(index: int, *, side: int = 72) -> Image.Image:
    """One picture, the same for the same index."""
    colours = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST)
