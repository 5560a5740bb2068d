"""A CLIP text model in miniature, with random weights, for the families that have one."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig

WIDTH = 32
TOKENS = 16


def make_clip(
    model: type[Any], folder: Path, *, suffix: str = "", layers: int = 2, width: int = WIDTH
) -> None:
    """Write text model and tokenizer of a base model; the same bytes each time.

    Args:
        model: Class of the text model.
        folder: The base model's.
        suffix: "_2" for a second text encoder.
        layers: How deep it is.
        width: Of its embeddings, the pooled one too.
    """
    vocabulary = _make_tokenizer(folder / f"tokenizer{suffix}")
    torch.manual_seed(3)
    text = model(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            projection_dim=width,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )
    text.save_pretrained(folder / f"text_encoder{suffix}")


def _make_tokenizer(folder: Path) -> int:
    """A CLIP tokenizer of single letters; returns the size of its vocabulary."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)
