"""T5's tokenizer and encoder, as flux (T5) and wan (UMT5) have them.

A module of its own because both are asked alike; whether padding is masked is the family's.
"""

from typing import Any

import torch
from transformers import AutoTokenizer

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes.loading import load_text_model
from lora_trainer.recipes.tokens import Tokens

# Both families were trained with this many tokens.
_TOKENS = 512
_END = 1


class T5Text:
    """One T5 encoder.

    Args:
        model: Its class.
        base: The base model.
        device: Where to; on a GPU in bfloat16, in which its weights were trained.
        suffix: "_2" for a base model's second text encoder.
    """

    def __init__(
        self, model: Any, base: BaseModel, *, device: torch.device, suffix: str = ""
    ) -> None:
        self._device = device
        self._tokens = Tokens(
            AutoTokenizer.from_pretrained(
                base.folder / f"tokenizer{suffix}", local_files_only=True
            ),
            longest=_TOKENS,
            added=_END,
        )
        self._model: Any = load_text_model(
            model,
            base,
            f"text_encoder{suffix}",
            device=device,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        )

    def run(self, text: str, *, masked: bool) -> torch.Tensor:
        """[tokens, width] of one text, always of the same length.

        Args:
            text: One by one: an embedding must not depend on its neighbours.
            masked: Whether the encoder sees no padding, and zeros stand for it in the output.
        """
        tokens = self._tokens.of(text)
        mask = tokens.attention_mask.to(self._device) if masked else None
        ids = tokens.input_ids.to(self._device)
        hidden: torch.Tensor = self._model(ids, attention_mask=mask).last_hidden_state[0]
        return hidden if mask is None else hidden * mask[0][:, None].to(hidden.dtype)

    def truncated(self, text: str) -> str | None:
        """The end of a text that does not fit; None where all does."""
        return self._tokens.truncated(text)
