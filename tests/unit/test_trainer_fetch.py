"""What is refused from the listing alone, before a byte is fetched."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.datasets import never

from lora_api.reasons import Reason
from lora_api.settings import DatasetSettings
from lora_trainer.basemodel import check_weight_header, read_configs
from lora_trainer.captions import MAX_CAPTION_BYTES
from lora_trainer.download import fetch_files
from lora_trainer.errors import TrainerError
from lora_trainer.fetch_base import BaseSource, fetch_base_model
from lora_trainer.fetch_dataset import FetchedDataset, fetch_dataset
from lora_trainer.recipes import RECIPES
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import OnBytes, StoredFile
from lora_trainer.storage.local import LocalStorage

UNSAFE_NAMES = {
    "an absolute path": "/abs",
    "a way out": "a/../../b",
    "an empty part": "a//b",
    "the folder itself": "a/./b",
    "a zero byte": "a\0b",
    "a part of 250 bytes": f"a/{'n' * 250}/b",
    "250 bytes in 125 letters": "ü" * 125,
}


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_an_object_whose_name_is_no_path_below_the_folder_is_refused(
    name: str, tmp_path: Path
) -> None:
    storage = LocalStorage(f"file://{tmp_path}/there", field="dataset.uri")
    files = [StoredFile("good.png", 1, "t"), StoredFile(UNSAFE_NAMES[name], 1, "t")]
    with pytest.raises(TrainerError, match=r"dataset\.uri.*rename or remove") as caught:
        fetch_files(
            storage,
            files,
            tmp_path / "here",
            unsafe=Reason.INVALID_IMAGES,
            advance=lambda _done, _total: None,
        )
    assert caught.value.reason is Reason.INVALID_IMAGES
    assert repr(UNSAFE_NAMES[name])[:200] in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_others_need_as_a_folder_is_refused(tmp_path: Path) -> None:
    storage = LocalStorage(f"file://{tmp_path}/there", field="dataset.uri")
    files = [StoredFile("set/a.png", 1, "t"), StoredFile("set", 1, "t")]
    with pytest.raises(TrainerError, match=r"'set' .*a file and.* a folder; rename or remove it"):
        fetch_files(storage, files, tmp_path / "here", advance=lambda _done, _total: None)
    assert list(tmp_path.iterdir()) == []


def _fetch(source: Path, target: Path) -> FetchedDataset:
    return fetch_dataset(
        DatasetSettings(uri=f"file://{source}"),
        target,
        stop=StopFlag(),
        advance=lambda _done, _total: None,
    )


def _folder_of(path: Path, **sizes: int) -> Path:
    """A folder of files `stem_ending` with so many bytes."""
    path.mkdir()
    for name, size in sizes.items():
        (path / name.replace("_", ".")).write_bytes(b"a" * size)
    return path


def test_a_text_that_is_no_pictures_caption_is_named_and_not_fetched(tmp_path: Path) -> None:
    source = _folder_of(tmp_path / "there", a_png=9, a_txt=9, README_txt=MAX_CAPTION_BYTES + 1)
    fetched = _fetch(source, tmp_path / "here")
    assert (fetched.pictures, fetched.captions) == (["a.png"], ["a.txt"])
    assert fetched.orphans == ["README.txt"]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"a.png", "a.txt"}


def test_a_caption_that_is_too_long_is_a_fault_and_not_fetched(tmp_path: Path) -> None:
    source = _folder_of(tmp_path / "there", a_png=9, a_txt=MAX_CAPTION_BYTES + 1)
    fetched = _fetch(source, tmp_path / "here")
    assert [(fault.name, fault.is_caption) for fault in fetched.faults] == [("a.txt", True)]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"a.png"}


def test_a_picture_that_is_too_large_is_a_fault_and_not_fetched(tmp_path: Path) -> None:
    source = _folder_of(tmp_path / "there", a_png=9, b_png=10_000_001)
    fetched = _fetch(source, tmp_path / "here")
    assert [str(fault) for fault in fetched.faults] == [
        "b.png has 10000001 bytes, more than 10000000 (dataset.maxFileBytes)"
    ]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"a.png"}


DEEP = b'{"a":' * 100_000


def test_a_config_nested_beyond_reason_is_an_invalid_base_model(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_bytes(DEEP)
    with pytest.raises(TrainerError, match=r"model_index\.json is not readable JSON") as caught:
        read_configs(tmp_path, RECIPES["sd15"].components, where="baseModel.uri x")
    assert caught.value.reason is Reason.BASE_MODEL_INVALID


def test_a_weight_header_nested_beyond_reason_is_an_invalid_base_model(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(DEEP).to_bytes(8, "little") + DEEP)
    with pytest.raises(TrainerError, match="not a safetensors file") as caught:
        check_weight_header(path, name="unet/a.safetensors", where="baseModel.uri x")
    assert caught.value.reason is Reason.BASE_MODEL_INVALID


def test_a_tokenizer_file_too_large_to_be_one_is_refused_from_the_listing(tmp_path: Path) -> None:
    source = tmp_path / "there"
    for component in RECIPES["sd15"].components:
        (source / component).mkdir(parents=True)
        (source / component / "config.json").write_text("{}")
        (source / component / "model.safetensors").touch()
    (source / "model_index.json").write_text("{}")
    with (source / "tokenizer" / "vocab.json").open("wb") as file:
        file.truncate((32 << 20) + 1)
    with pytest.raises(TrainerError, match=r"tokenizer/vocab\.json: larger than 32 MiB") as caught:
        fetch_base_model(
            BaseSource(folder=LocalStorage(f"file://{source}", field="baseModel.uri")),
            tmp_path / "here",
            RECIPES["sd15"],
            check=lambda _model: None,
            advance=lambda _done, _total: None,
        )
    assert caught.value.reason is Reason.BASE_MODEL_INVALID


RESHAPED = {
    "a file becomes a folder": ("a", "a/b.png"),
    "a folder becomes a file": ("a/b.png", "a"),
    "a folder of folders becomes a file": ("a/b/c/d.png", "a"),
}


@pytest.mark.parametrize("name", RESHAPED)
def test_a_dataset_may_change_its_shape_between_two_attempts(name: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for attempt, picture in enumerate(RESHAPED[name]):
        path = tmp_path / f"there{attempt}" / picture
        path.parent.mkdir(parents=True)
        path.write_bytes(b"%d" % attempt)
        assert _fetch(tmp_path / f"there{attempt}", here).pictures == [picture]
    found = [path for path in here.rglob("*") if path.is_file()]
    assert [path.relative_to(here).as_posix() for path in found] == [picture]
    assert (here / picture).read_bytes() == b"1"


# One file after the other, and an end in the midst of the last.
_KILLED = """
import os, signal, sys
from pathlib import Path
from lora_trainer import download
from lora_trainer.storage.local import LocalStorage

class Deadly(LocalStorage):
    def download(self, file, target, on_bytes):
        if file.name == "z":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().download(file, target, on_bytes)

download._PARALLEL_DOWNLOADS = 1
storage = Deadly("file://" + sys.argv[1], field="baseModel.uri")
download.fetch_files(storage, storage.list_files(), Path(sys.argv[2]), advance=lambda *_: None)
"""

KILLED = {
    "a large file": ({"a": 64 << 20, "z": 1}, {"z"}),
    "many small ones": (
        {**{f"a{number:02}": 1 for number in range(70)}, "z": 1},
        {*(f"a{number:02}" for number in range(64, 70)), "z"},
    ),
}


class _Counting(LocalStorage):
    def __init__(self, folder: Path) -> None:
        super().__init__(f"file://{folder}", field="baseModel.uri")
        self.fetched: set[str] = set()

    def download(self, file: StoredFile, target: Path, on_bytes: OnBytes) -> str:
        self.fetched.add(file.name)
        return super().download(file, target, on_bytes)


@pytest.mark.parametrize("name", KILLED)
def test_what_was_fetched_before_a_kill_is_not_fetched_again(name: str, tmp_path: Path) -> None:
    sizes, again = KILLED[name]
    source = tmp_path / "there"
    source.mkdir()
    for file, size in sizes.items():
        with (source / file).open("wb") as out:
            out.truncate(size)
    here = tmp_path / "here"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(source), str(here)], check=False)
    assert killed.returncode == -signal.SIGKILL
    storage = _Counting(source)
    digests = fetch_files(storage, storage.list_files(), here, advance=never)
    assert storage.fetched == again
    assert set(digests) == set(sizes)
