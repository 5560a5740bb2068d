"""Captions in one file: metadata.jsonl, as Hugging Face's imagefolder has it.

A module of its own because it is a format of its own: one JSON object a line, of which `file_name`
and `text` count (https://huggingface.co/docs/datasets/image_dataset#imagefolder).
"""

import json
from pathlib import Path, PurePosixPath

from lora_trainer.captions import CaptionError, clean_caption
from lora_trainer.faults import FileFault

FILE_NAME = "metadata.jsonl"
# A long caption for each of 10,000 pictures.
MAX_METADATA_BYTES = 64 << 20


def is_metadata(name: str) -> bool:
    """Whether a file of the dataset holds captions of others."""
    return PurePosixPath(name).name == FILE_NAME


def read_metadata(path: Path, *, name: str) -> tuple[dict[str, str], list[FileFault]]:
    """Captions by the names of their pictures.

    Args:
        path: The file.
        name: Its name in the dataset; the names in it are relative to its folder.

    Returns:
        Picture's name in the dataset to caption, and a fault for each line without one.
    """
    captions: dict[str, str] = {}
    faults: list[FileFault] = []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return {}, [_fault(name, f"is not UTF-8 text (byte {error.start}); save it as UTF-8")]
    folder = PurePosixPath(name).parent
    # Only these end a line: JSON may hold further ones, such as U+2028, as they are.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            file_name, caption = _entry(line)
            picture = str(folder / file_name)
            if picture in captions:
                raise CaptionError(f"names {picture} a second time")
        except CaptionError as error:
            faults.append(_fault(name, f"line {number} {error}"))
            continue
        captions[picture] = caption
    return captions, faults


def _entry(line: str) -> tuple[str, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CaptionError("is not JSON") from error
    if not isinstance(value, dict):
        raise CaptionError('is no object such as {"file_name": "a.png", "text": "a cat"}')
    file_name, text = value.get("file_name"), value.get("text")
    if not isinstance(file_name, str) or not file_name:
        raise CaptionError('has no "file_name"')
    if not isinstance(text, str):
        raise CaptionError(f'has no "text" for {file_name[:200]}')
    try:
        return file_name.removeprefix("./"), clean_caption(text)
    except CaptionError as error:
        raise CaptionError(f"({file_name[:200]}) {error}") from error


def _fault(name: str, text: str) -> FileFault:
    return FileFault(name=name, text=text, is_caption=True)
