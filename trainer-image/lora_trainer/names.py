"""Whether a stored file's name may become a path on this machine.

A module of its own because an object's key is free text that somebody else chose: this rule alone
keeps it below the folder that it is fetched into.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError
from lora_trainer.storage import Storage, StoredFile

# File systems allow 255; a temporary file's name is a little longer than its final one.
_MAX_PART_BYTES = 200
# As long as S3's keys may be; file systems take paths of 4096.
_MAX_NAME_BYTES = 1024


def refuse_unsafe_names(files: Iterable[StoredFile], storage: Storage, reason: Reason) -> None:
    """Refuse names that leave the folder, that no file system takes, or that two objects need.

    Args:
        files: What is to be fetched.
        storage: Where they lie, for the message.
        reason: What such a name makes invalid.

    Raises:
        TrainerError: The first such name, and what is wrong with it.
    """
    wanted = list(files)
    folders = {str(parent) for file in wanted for parent in PurePosixPath(file.name).parents}
    for file in wanted:
        fault = name_fault(file.name)
        if fault is None and file.name in folders:
            fault = "would be a file and, for the objects below it, a folder"
        if fault:
            raise TrainerError(
                reason,
                f"{storage.field}: the object {file.name[:300]!r} under {storage.uri} {fault}; "
                "rename or remove it",
            )


def name_fault(name: str) -> str | None:
    """What keeps a name from being a path below a folder; None where nothing does."""
    if len(name.encode("utf-8", "surrogatepass")) > _MAX_NAME_BYTES:
        return f"has a name of more than {_MAX_NAME_BYTES} bytes"
    parts = name.split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        return "has an empty part, '.' or '..' in its name"
    if "\0" in name:
        return "has a zero byte in its name"
    if any(len(part.encode("utf-8", "surrogatepass")) > _MAX_PART_BYTES for part in parts):
        return f"has a part of more than {_MAX_PART_BYTES} bytes in its name"
    return None
