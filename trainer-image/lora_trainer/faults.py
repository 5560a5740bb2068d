"""What is wrong with one file of the dataset.

A module of its own because faults are found in many places (listing, archive, captions, pictures,
clips) and must come out together: in one message, or in the report of what was left out.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFault:
    """One file, and why it can't be used."""

    name: str
    """The file's name in the dataset."""

    text: str
    """Why, as the rest of a sentence that begins with the name."""

    is_caption: bool = False
    """Whether the words are at fault, not the picture."""

    def __str__(self) -> str:
        return f"{self.name} {self.text}"
