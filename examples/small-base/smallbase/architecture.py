"""The model's shape: Stable Diffusion 1.5's parts with fewer and narrower layers.

Kept apart from training so that an untrained model of the same shape can be exported, and so that
all sizes that decide the 20 MB are on one page.
"""

from typing import Any, Final

from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from smallbase.scenes import CANVAS_PIXELS, GRID_PIXELS
from smallbase.tokenizer import MAX_TOKENS

TEXT_WIDTH: Final = 192
LATENT_CHANNELS: Final = 4
SCALING_FACTOR: Final = 0.18215
"""Stable Diffusion 1.5's; the autoencoder is rescaled to fit it, see `vae.standardise`."""

NOISE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
}


def autoencoder() -> AutoencoderKL:
    """3 x 64 x 64 pixels <-> 4 x 16 x 16 latents: twice the detail per pixel of the original."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=CANVAS_PIXELS,
        mid_block_add_attention=False,
        scaling_factor=SCALING_FACTOR,
    )


def denoiser() -> UNet2DConditionModel:
    """The UNet. Attention is at 8 x 8 and 4 x 4; at 16 x 16 it would double the time of a step."""
    return UNet2DConditionModel(
        sample_size=CANVAS_PIXELS // GRID_PIXELS,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, by the original's naming
        norm_num_groups=16,
    )


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text transformer over the small vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def training_scheduler() -> DDPMScheduler:
    """The forward process, with the exported sampler's noise schedule."""
    return DDPMScheduler(**NOISE)


def sampling_scheduler() -> DDIMScheduler:
    """The sampler that is exported with the model."""
    return DDIMScheduler(**NOISE, steps_offset=1, set_alpha_to_one=False)
