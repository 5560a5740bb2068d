"""Fetch the emoji pictures once, check them, and hand them out by name.

This is the only module that touches the network or knows the npm package's layout.
"""

import base64
import hashlib
import json
import subprocess
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from PIL import Image

PACKAGE: Final = "emoji-datasource-google@16.0.0"
TARBALL: Final = "emoji-datasource-google-16.0.0.tgz"
SHA512_BASE64: Final = (
    "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="
)
"""The registry's published `dist.integrity` of exactly this version."""


class PicturesError(Exception):
    """The picture package could not be fetched or is not the pinned one."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


def _checksum(path: Path) -> str:
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def fetch(cache: Path) -> "Pictures":
    """Download and unpack the picture package into `cache`, unless it is there already.

    Raises:
        PicturesError: npm failed (`FetchFailed`) or the file differs from the pinned checksum
            (`ChecksumMismatch`).
    """
    folder = cache / "pictures"
    tarball = cache / TARBALL
    if not (folder / "emoji.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        if not tarball.is_file():
            done = subprocess.run(
                ["npm", "pack", PACKAGE], cwd=cache, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise PicturesError(
                    "FetchFailed", f"npm pack {PACKAGE} failed: {done.stderr.strip()[-500:]}"
                )
        if _checksum(tarball) != SHA512_BASE64:
            raise PicturesError(
                "ChecksumMismatch", f"{tarball} is not {PACKAGE}; delete it and try again"
            )
        _unpack(tarball, folder)
    return Pictures(folder)


def _unpack(tarball: Path, folder: Path) -> None:
    """Keep only the 64 px pictures and their names; the sprite sheets are 20 times larger."""
    (folder / "64").mkdir(parents=True, exist_ok=True)
    with tarfile.open(tarball) as archive:
        for member in archive:
            if member.name.startswith("package/img/google/64/") and member.name.endswith(".png"):
                data = archive.extractfile(member)
                assert data is not None  # noqa: S101  # a regular file by the test above
                (folder / "64" / Path(member.name).name).write_bytes(data.read())
            elif member.name == "package/emoji.json":
                data = archive.extractfile(member)
                assert data is not None  # noqa: S101
                index = data.read()
    (folder / "emoji.json").write_bytes(index)  # last: its presence says "complete"


class Pictures:
    """The unpacked emoji set: RGBA sprites of at most 64 x 64 px, by `short_name`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sprites: dict[str, Image.Image] = {}

    @cached_property
    def _files(self) -> dict[str, str]:
        entries: list[dict[str, Any]] = json.loads((self._folder / "emoji.json").read_text())
        return {
            entry["short_name"]: entry["image"]
            for entry in entries
            if entry["has_img_google"] and entry["category"] != "Flags"
        }

    @property
    def names(self) -> list[str]:
        """All `short_name`s with a picture, flags left out, in the package's order."""
        return list(self._files)

    def sprite(self, short_name: str) -> Image.Image:
        """Return the picture cropped to what is visible."""
        if short_name not in self._sprites:
            path = self._folder / "64" / self._files[short_name]
            image = Image.open(path).convert("RGBA")
            self._sprites[short_name] = image.crop(image.getbbox())
        return self._sprites[short_name]
