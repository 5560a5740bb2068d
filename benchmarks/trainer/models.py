"""Base models to measure with: the published architectures, filled with random numbers.

A module of its own because it is the only place that knows the published sizes. A model starts as
the tests' miniature, which brings configs, tokenizers and scheduler; then the parts that a step's
time depends on are written again in their own size.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FluxTransformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from safetensors.torch import save_file
from tests.trainer.families import MAKERS
from tests.trainer.published import SDXL_UNET
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

ROOT = Path(__file__).parents[2]
SMALL_BASE = ROOT / "examples" / "small-base" / "model"
_CLIP_TOKENS = 77
_T5_TOKENS = 512
_SDXL: dict[str, Any] = {"sample_size": 128, **SDXL_UNET}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def miniature(recipe: str, folder: Path) -> Path:
    """The tests' miniature of a family, to see that everything runs.

    Args:
        recipe: The family.
        folder: Left alone where the model is there already.
    """
    if (folder / "model_index.json").exists():
        return folder
    MAKERS[recipe](folder)
    if recipe == "flux":  # diffusers' script pads to the published length, whatever the model has
        _write(_clip(CLIPTextModel, **_SMALL_CLIP), torch.float32, folder / "text_encoder")
        _lengthen(folder / "tokenizer")
    return folder


def published(recipe: str, folder: Path) -> Path:
    """A family's published architecture with random weights.

    SDXL takes 9 GB on the disk, FLUX 25, WAN 1.3B 5. T5 and UMT5 have their width but one block:
    they run once before training, which is not what is compared.

    Args:
        recipe: The family.
        folder: Left alone where the model is there already.
    """
    if recipe == "sd15":
        return full_size_model(folder)
    if (folder / "model_index.json").exists():
        return folder
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    MAKERS[recipe](unfinished)
    torch.manual_seed(0)
    for part, (make, dtype) in _PARTS[recipe].items():
        shutil.rmtree(unfinished / part)
        _write(make, dtype, unfinished / part)
    for tokenizer in unfinished.glob("tokenizer*"):
        _lengthen(tokenizer)
    return unfinished.rename(folder)


def _write(make: Callable[[], Any], dtype: torch.dtype, folder: Path) -> None:
    """Fill a model with random numbers, on the GPU where there is one: 12 billion take a while."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(dtype)
        try:
            model = make()
        finally:
            torch.set_default_dtype(torch.float32)
    model.to("cpu").save_pretrained(folder)


def _lengthen(tokenizer: Path) -> None:
    """Have texts padded to the length that the published models see."""
    path = tokenizer / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    length = _CLIP_TOKENS if settings["tokenizer_class"] == "CLIPTokenizer" else _T5_TOKENS
    path.write_text(json.dumps(settings | {"model_max_length": length}))


def _clip(kind: Callable[..., Any], **sizes: int) -> Callable[[], Any]:
    # The miniature's tokenizer has 190 words, the last two begin and end a text; sd-scripts brings
    # a tokenizer of its own, with more.
    words = {"vocab_size": 49408, "bos_token_id": 188, "eos_token_id": 189, "pad_token_id": 189}
    return lambda: kind(CLIPTextConfig(max_position_embeddings=_CLIP_TOKENS, **words, **sizes))


def _t5(kind: Callable[..., Any], config: Callable[..., Any]) -> Callable[[], Any]:
    sizes = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 1}
    return lambda: kind(config(vocab_size=98, feed_forward_proj="gated-gelu", **sizes))


_SMALL_CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}
_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
_BF16, _FP32 = torch.bfloat16, torch.float32
_PARTS: dict[str, dict[str, tuple[Callable[[], Any], torch.dtype]]] = {
    "sdxl": {
        "unet": (lambda: UNet2DConditionModel(**_SDXL), _FP32),
        "vae": (lambda: AutoencoderKL(**_VAE, sample_size=1024, scaling_factor=0.13025), _FP32),
        "text_encoder": (_clip(CLIPTextModel, **_CLIP_L), _FP32),
        "text_encoder_2": (_clip(CLIPTextModelWithProjection, **_CLIP_G), _FP32),
    },
    "flux": {
        "transformer": (lambda: FluxTransformer2DModel(guidance_embeds=True), _BF16),
        "vae": (
            lambda: AutoencoderKL(
                **_VAE,
                sample_size=1024,
                latent_channels=16,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            _FP32,
        ),
        "text_encoder": (_clip(CLIPTextModel, **_CLIP_L), _BF16),
        "text_encoder_2": (_t5(T5EncoderModel, T5Config), _BF16),
    },
    "wan": {
        "transformer": (
            lambda: WanTransformer3DModel(num_attention_heads=12, num_layers=30, ffn_dim=8960),
            _BF16,
        ),
        "vae": (AutoencoderKLWan, _FP32),
        "text_encoder": (_t5(UMT5EncoderModel, UMT5Config), _BF16),
    },
}


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
    _lengthen(folder / "tokenizer")
    words = json.loads((SMALL_BASE / "text_encoder" / "config.json").read_text())
    UNet2DConditionModel(sample_size=64, cross_attention_dim=768).half().save_pretrained(
        folder / "unet"
    )
    AutoencoderKL(**_VAE, sample_size=512).half().save_pretrained(folder / "vae")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            **_CLIP_L,
            **{key: words[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        )
    ).half()
    text.config.save_pretrained(folder / "text_encoder")
    # Published models carry this prefix; transformers 5 reads it, transformers 4 needs it.
    weights = {f"text_model.{name}": value for name, value in text.state_dict().items()}
    save_file(weights, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(SMALL_BASE / "model_index.json", folder / "model_index.json")
    return folder
