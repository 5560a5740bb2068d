"""How texts are cut and padded before a text encoder sees them.

A module of its own because the rule is one for CLIP and T5, and because what was cut off must be
told by the same count that cuts.
"""

from typing import Any


class Tokens:
    """A tokenizer that gives every text the same number of tokens.

    Args:
        tokenizer: From transformers.
        longest: Most tokens that the text encoder takes.
        added: How many of them the tokenizer adds by itself (begin, end).
    """

    def __init__(self, tokenizer: Any, *, longest: int, added: int) -> None:
        self._tokenizer = tokenizer
        self._length = min(int(tokenizer.model_max_length), longest)
        self._added = added

    def of(self, text: str) -> Any:
        """`input_ids` and `attention_mask`, each [1, tokens], cut and padded."""
        return self._tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )

    def truncated(self, text: str) -> str | None:
        """The end of a text that does not fit; None where all does."""
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        room = self._length - self._added
        return str(self._tokenizer.decode(ids[room:])).strip() if len(ids) > room else None
