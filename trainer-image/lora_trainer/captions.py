"""The words that go with each picture.

A module of its own because captions have rules of their own (encoding, trigger word, bounds) that
have nothing to do with pixels.
"""

from pathlib import Path

MAX_CAPTION_BYTES = 16 * 1024


class CaptionError(Exception):
    """Why one caption is refused, in a few words."""


def caption_for(path: Path | None, *, trigger_word: str | None) -> str:
    """The caption of one picture.

    Args:
        path: Its caption file; None where there is none.
        trigger_word: The caption without a file, and put before one that lacks it.

    Raises:
        CaptionError: There is no text to train with.
    """
    if path is None:
        if trigger_word is None:
            raise CaptionError("has no caption file, and dataset.triggerWord is not set")
        return trigger_word
    return with_trigger(read_caption(path), trigger_word)


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
    if any(ord(character) < 32 and character not in "\t\r\n\f\v" for character in text):
        raise CaptionError("holds control characters; save it as plain UTF-8 text")
    caption = " ".join(text.split())
    if not caption:
        raise CaptionError("is empty; write a caption or delete the file to use the trigger word")
    return caption


def with_trigger(caption: str, trigger_word: str | None) -> str:
    """The caption with the trigger word in it, put before it where it is missing."""
    if trigger_word is None or _contains(caption, trigger_word):
        return caption
    return f"{trigger_word}, {caption}"


def _contains(caption: str, words: str) -> bool:
    """Whether the words stand in the caption as whole words, in any case."""
    return f" {_plain(words)} " in f" {_plain(caption)} "


def _plain(text: str) -> str:
    kept = (character if character.isalnum() else " " for character in text.casefold())
    return " ".join("".join(kept).split())
