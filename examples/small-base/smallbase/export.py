"""Write the model as a diffusers folder, the layout every Stable Diffusion program reads.

Exporting is apart from training so that a checkpoint can be exported while training goes on, and
so that an untrained model of the same shape can be made in seconds for tests.
"""

import copy
import json
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import AddedToken
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from smallbase import architecture
from smallbase.subjects import CONCEPTS

_PARTS: Final[dict[str, list[str | None]]] = {
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def add_trigger_words(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, seed: int = 0) -> None:
    """Give each concept's trigger word one token, with an embedding that no training touched.

    In pieces it would move the words after it to positions at which this small encoder has seldom
    seen them, and the place in the prompt would be lost.
    """
    torch.manual_seed(seed)
    tokenizer.add_tokens([AddedToken(word, single_word=True) for word in CONCEPTS])
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def write(
    folder: Path,
    *,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
) -> None:
    """Write all parts in half precision; the given models stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    models: dict[str, nn.Module] = {"text_encoder": text_encoder, "unet": unet, "vae": vae}
    for name, model in models.items():
        half: Any = copy.deepcopy(model).half()
        half.save_pretrained(folder / name)
        _forget_origin(folder / name / "config.json")
    tokenizer.save_pretrained(folder / "tokenizer")
    architecture.sampling_scheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "requires_safety_checker": False,
        **_PARTS,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _forget_origin(path: Path) -> None:
    """Where on this machine a part was loaded from is nobody's business."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_untrained(folder: Path, tokenizer: CLIPTokenizer, seed: int = 0) -> None:
    """Write a model of the same shape with random weights."""
    torch.manual_seed(seed)
    text_encoder = architecture.text_encoder(tokenizer)
    add_trigger_words(tokenizer, text_encoder)
    write(
        folder,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=architecture.denoiser(),
        vae=architecture.autoencoder(),
    )
