"""CLIP's tokenizer and text model, as sd15, sdxl and flux have them.

A module of its own because how texts are cut and padded is one rule for all of them; which of the
model's outputs counts is each family's.
"""

from typing import Any

import torch
from transformers import CLIPTokenizer

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes.loading import load_text_model

_BEGIN_AND_END = 2


class ClipText:
    """One CLIP text model.

    Args:
        model: Its class.
        base: The base model.
        device: Where to.
        suffix: "_2" for a base model's second text encoder.
    """

    def __init__(
        self, model: Any, base: BaseModel, *, device: torch.device, suffix: str = ""
    ) -> None:
        folder = base.folder / f"tokenizer{suffix}"
        self._tokenizer: Any = CLIPTokenizer.from_pretrained(folder)
        config = base.configs[f"text_encoder{suffix}"]
        longest = int(config.get("max_position_embeddings", 77))
        self._length = min(int(self._tokenizer.model_max_length), longest)
        self._device = device
        self.name = f"text_encoder{suffix}"
        self.model: Any = load_text_model(
            model, base, self.name, device=device, dtype=torch.float32
        )

    def run(self, text: str) -> Any:
        """The model's output for one text, with all hidden states.

        One by one: a caption's embedding must not depend on its neighbours.
        """
        tokens = self._tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        ).input_ids
        return self.model(tokens.to(self._device), output_hidden_states=True)

    def truncated(self, text: str) -> str | None:
        """The end of a text that does not fit; None where all does."""
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        room = self._length - _BEGIN_AND_END
        return str(self._tokenizer.decode(ids[room:])).strip() if len(ids) > room else None
