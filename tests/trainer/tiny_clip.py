"""A CLIP text model in miniature, with random weights, for the families that have one."""

from pathlib import Path
from typing import Any

import torch
from tests.trainer.tiny import TOKENS, WIDTH, make_tokenizer
from transformers import CLIPTextConfig


def make_clip(model: type[Any], folder: Path, *, suffix: str = "") -> None:
    """Write text model and tokenizer of a base model; the same bytes each time.

    Args:
        model: Class of the text model.
        folder: The base model's.
        suffix: "_2" for a second text encoder.
    """
    vocabulary = make_tokenizer(folder / f"tokenizer{suffix}")
    torch.manual_seed(3)
    text = model(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            projection_dim=WIDTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )
    text.save_pretrained(folder / f"text_encoder{suffix}")
