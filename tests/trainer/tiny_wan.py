"""WAN in miniature with random weights: 2.1, the two experts of 2.2 A14B, and 2.2 5B."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from tests.trainer import tiny_t5
from transformers import UMT5Config, UMT5EncoderModel

_CHANNELS_OF_5B = 48
# It takes squares of four pixels for one, and so halves the picture once more.
_VAE_OF_5B: dict[str, Any] = {
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
}


def make_wan(folder: Path, *, channels: int = 4, heads: int = 2, experts: bool = False) -> Path:
    """Write the model in diffusers layout; the same bytes each time.

    Args:
        folder: Where to.
        channels: Of the latents.
        heads: Attention heads of the transformer.
        experts: Whether there are two transformers, as in 2.2 A14B.
    """
    parts = ("transformer", "transformer_2") if experts else ("transformer",)
    for seed, part in enumerate(parts):
        torch.manual_seed(seed)
        WanTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=channels,
            text_dim=tiny_t5.WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        ).save_pretrained(folder / part)
    torch.manual_seed(7)
    large = channels == _CHANNELS_OF_5B
    AutoencoderKLWan(
        **(_VAE_OF_5B if large else {}),
        base_dim=4,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * channels,
        latents_std=[2.0] * channels,
    ).save_pretrained(folder / "vae")
    tiny_t5.make_t5(UMT5EncoderModel, UMT5Config, folder)
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "WanPipeline",
        "boundary_ratio": 0.875 if experts else None,
        "expand_timesteps": large,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": ["diffusers", "WanTransformer3DModel"] if experts else [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
