"""A T5 encoder and its tokenizer in miniature, with random weights, for the families that have one.

A Unigram of single letters: every text can be said with it, and nothing had to be fetched.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

TOKENS = 16
WIDTH = 32
_SPECIAL = ["<pad>", "</s>", "<unk>"]


def make_t5(model: type[Any], config: type[Any], folder: Path, *, suffix: str = "") -> None:
    """Write encoder and tokenizer of a base model; the same bytes each time.

    Args:
        model: Class of the encoder.
        config: Class of its config.
        folder: The base model's.
        suffix: "_2" for a second text encoder.
    """
    vocabulary = _make_tokenizer(folder / f"tokenizer{suffix}")
    torch.manual_seed(5)
    encoder = model(
        config(
            vocab_size=vocabulary,
            d_model=WIDTH,
            d_kv=8,
            d_ff=2 * WIDTH,
            num_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )
    encoder.save_pretrained(folder / f"text_encoder{suffix}")


def _make_tokenizer(folder: Path) -> int:
    letters = [chr(code) for code in range(33, 127)]
    words = [(word, 0.0) for word in _SPECIAL]
    words += [("▁", -2.0), *((letter, -3.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(_SPECIAL)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": TOKENS,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)
