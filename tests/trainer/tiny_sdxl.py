"""A Stable Diffusion XL in miniature with random weights, made in a second."""

import json
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from tests.trainer.tiny_clip import WIDTH, make_clip
from tests.trainer.tiny_vae import make_vae
from transformers import CLIPTextModel, CLIPTextModelWithProjection

# As in the original, by which its checkpoints are known: wider than the first, and deeper.
SECOND_WIDTH = 48
SECOND_LAYERS = 10


def make_sdxl(folder: Path) -> Path:
    """Write the model in diffusers layout; the same bytes each time."""
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
        cross_attention_dim=WIDTH + SECOND_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + SECOND_WIDTH,
    ).save_pretrained(folder / "unet")
    make_vae(folder, scaling_factor=0.13025)
    make_clip(CLIPTextModel, folder)
    make_clip(
        CLIPTextModelWithProjection,
        folder,
        suffix="_2",
        layers=SECOND_LAYERS,
        width=SECOND_WIDTH,
    )
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
