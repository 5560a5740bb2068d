"""The words that go with each picture.

A module of its own because captions have rules of their own (encoding, trigger word, bounds, order)
that have nothing to do with pixels.
"""

import hashlib
import random
from pathlib import Path

from lora_api.settings import DatasetSettings

MAX_CAPTION_BYTES = 16 * 1024
# Orders in which the parts of one caption are trained. Each costs an entry in the text cache, and
# more than a handful teach nothing more about which parts belong together.
MAX_ORDERS = 8
_TRIGGER = "{trigger}"


class CaptionError(Exception):
    """Why one caption is refused, in a few words."""


def caption_for(given: str | None, settings: DatasetSettings) -> str:
    """The caption of one picture.

    Args:
        given: What its caption file or metadata.jsonl says; None where neither speaks of it.
        settings: Trigger word and template.

    Raises:
        CaptionError: There is no text to train with.
    """
    trigger = settings.trigger_word
    if given is None and settings.caption_template is not None:
        given = clean_caption(settings.caption_template.replace(_TRIGGER, trigger or ""))
    if given is None:
        if trigger is None:
            raise CaptionError(
                "has no caption, and neither dataset.triggerWord nor dataset.captionTemplate is set"
            )
        return trigger
    return with_trigger(given, trigger)


def read_caption(path: Path) -> str:
    """A caption file's text on one line.

    Args:
        path: The file.

    Raises:
        CaptionError: It is too long, empty, or not UTF-8 text.
    """
    if path.stat().st_size > MAX_CAPTION_BYTES:
        raise CaptionError(f"is longer than {MAX_CAPTION_BYTES} bytes")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptionError(f"is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return clean_caption(text)


def clean_caption(text: str) -> str:
    """A text on one line, with single blanks.

    Args:
        text: As somebody wrote it.

    Raises:
        CaptionError: It is too long, empty, or no text.
    """
    if any(ord(character) < 32 and character not in "\t\r\n\f\v" for character in text):
        raise CaptionError("holds control characters; save it as plain UTF-8 text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise CaptionError("holds half of a surrogate pair, which is no character") from error
    if size > MAX_CAPTION_BYTES:
        raise CaptionError(f"is longer than {MAX_CAPTION_BYTES} bytes")
    caption = " ".join(text.split())
    if not caption:
        raise CaptionError("is empty; write a caption or delete the file to use the trigger word")
    return caption


def with_trigger(caption: str, trigger_word: str | None) -> str:
    """The caption with the trigger word in it, put before it where it is missing."""
    if trigger_word is None or _contains(caption, trigger_word):
        return caption
    return f"{trigger_word}, {caption}"


def orders_of(caption: str, *, keep: int) -> tuple[str, ...]:
    """The caption with its comma-separated parts in other orders.

    They follow from the caption alone, so that every run finds their embeddings in the cache.

    Args:
        caption: The caption.
        keep: Leading parts that stay where they are.

    Returns:
        At most `MAX_ORDERS` - 1 further wordings, none twice and none the caption itself.
    """
    parts = [part.strip() for part in caption.split(",") if part.strip()]
    fixed, loose = parts[:keep], parts[keep:]
    if len(loose) < 2:
        return ()
    seed = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "little")
    chance = random.Random(seed)  # noqa: S311
    found = {", ".join(parts): None}
    for _ in range(4 * MAX_ORDERS):  # two parts have but two orders
        chance.shuffle(loose)
        found[", ".join([*fixed, *loose])] = None
        if len(found) == MAX_ORDERS:
            break
    return tuple(found)[1:]


def _contains(caption: str, words: str) -> bool:
    """Whether the words stand in the caption as whole words, in any case."""
    return f" {_plain(words)} " in f" {_plain(caption)} "


def _plain(text: str) -> str:
    kept = (character if character.isalnum() else " " for character in text.casefold())
    return " ".join("".join(kept).split())
