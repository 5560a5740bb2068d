"""CLIP's tokenizer and text model, as sd15, sdxl and flux have them.

A module of its own because how its tokenizer and model belong together is the same for all of
them; which of the model's outputs counts is each family's.
"""

from typing import Any

import torch
from transformers import CLIPTokenizer

from lora_trainer.basemodel import BaseModel
from lora_trainer.recipes.loading import load_text_model
from lora_trainer.recipes.tokens import Tokens

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
        self.name = f"text_encoder{suffix}"
        self._device = device
        self._tokens = Tokens(
            CLIPTokenizer.from_pretrained(base.folder / f"tokenizer{suffix}"),
            longest=int(base.configs[self.name].get("max_position_embeddings", 77)),
            added=_BEGIN_AND_END,
        )
        self.model: Any = load_text_model(
            model, base, self.name, device=device, dtype=torch.float32
        )

    def run(self, text: str) -> Any:
        """The model's output for one text, with all hidden states.

        One by one: a caption's embedding must not depend on its neighbours.
        """
        ids = self._tokens.of(text).input_ids.to(self._device)
        return self.model(ids, output_hidden_states=True)

    def truncated(self, text: str) -> str | None:
        """The end of a text that does not fit; None where all does."""
        return self._tokens.truncated(text)
