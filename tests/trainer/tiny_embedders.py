"""DINOv2 and CLIP in miniature with random weights: they know nothing, but compare for real."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

SIDE = 28


def make_dinov2(folder: Path) -> Path:
    """A DINOv2 for pictures of 28 pixels, which it takes from the middle of 32."""
    config = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=SIDE,
        patch_size=14,
    )
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": SIDE, "width": SIDE}}
    return _written(folder, lambda: Dinov2Model(config), sizes)


def make_clip(folder: Path) -> Path:
    """A CLIP vision model for pictures of 28 pixels."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
    )
    return _written(
        folder, lambda: CLIPVisionModelWithProjection(config), {"size": SIDE, "crop_size": SIDE}
    )


EMBEDDERS: dict[str, Callable[[Path], Path]] = {"dinov2": make_dinov2, "clip": make_clip}


def _written(folder: Path, model: Callable[[], Any], sizes: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    model().save_pretrained(folder)
    means = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    preprocessor = {"do_center_crop": True, **sizes, **means}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
