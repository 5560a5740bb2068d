"""Build a small byte-pair tokenizer in CLIP's file format.

CLIP's own vocabulary has 49,408 entries, which at this width would be ten times the text encoder.
A trigger word that is in no caption still splits into known pieces, so that a LoRA can bind it.
"""

# ruff: noqa: S311  # random pictures, not secrets

import json
import random
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from smallbase.subjects import PLACES, SIZES, SUBJECTS, caption

MAX_TOKENS: Final = 24
"""The longest prompt, start and end token included; the longest training caption has 11."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_GENERAL_WORDS: Final = (
    *("a", "photo", "of", "the", "drawing", "picture", "an", "illustration", "in", "style"),
    *("neon", "sketch", "pixel", "art", "watercolor", "painting", "cartoon", "character"),
    *("robot", "toy", "with", "wearing", "sitting", "and", "two", "three", "little", "huge"),
)
"""Words a prompt may use beside the captions and the emoji names."""


def _corpus(names: list[str]) -> list[str]:
    rng = random.Random(0)
    lines = [
        caption(rng.choice(tuple(SUBJECTS)), rng.choice(PLACES), rng.choice(SIZES))
        for _ in range(4000)
    ]
    lines += [name.replace("_", " ").replace("-", " ") for name in names] * 3
    return [*lines, *_GENERAL_WORDS * 20]


def build(folder: Path, *, names: list[str], size: int = 1400) -> CLIPTokenizer:
    """Train the tokenizer and write `vocab.json`, `merges.txt` and its configuration.

    Args:
        folder: where the files go; made if missing.
        names: emoji names, which give the vocabulary words beyond the captions.
        size: about how many entries the vocabulary gets, 512 of them single bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_END))
    model.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="removed", invert=True)
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(alphabet) - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    model.train_from_iterator(_corpus(names), trainer)
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    entries = [*alphabet, *(byte + "</w>" for byte in alphabet)]
    entries += dict.fromkeys("".join(pair) for pair in merges)
    vocabulary = dict.fromkeys([*entries, _START, _END])
    _write(folder, list(vocabulary), merges)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def _write(folder: Path, vocabulary: list[str], merges: list[tuple[str, ...]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, **special}
    numbered = {entry: index for index, entry in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
