"""Datasets in folders, archives and lists; captions in files, metadata.jsonl and templates."""

import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.datasets import ADataset, a_dataset, a_picture

from lora_api.reasons import Reason
from lora_trainer.errors import TrainerError


def _packed(dataset: ADataset, name: str) -> ADataset:
    """The dataset in an archive instead of a folder."""
    path = dataset.root / name
    files = sorted(dataset.folder.rglob("*"))
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, f"set/{file.name}")
            archive.writestr("__MACOSX/._p0.png", b"what a Mac leaves behind")
    else:
        with tarfile.open(path, "w:gz") as packed:
            packed.add(dataset.folder, "set")
    return dataset.having(uri=f"file://{path}")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.TGZ"])
def test_an_archive_holds_the_same_dataset_as_its_folder(name: str, tmp_path: Path) -> None:
    folder = a_dataset(tmp_path).with_pictures(3)
    (folder.folder / "p1.txt").write_text("a zorp on grass")
    packed = _packed(folder, name).checked()
    assert {sample.picture.name for sample in packed.samples} == {f"set/p{i}.png" for i in range(3)}
    assert packed.digest == folder.checked().digest


def test_an_unpacked_archive_is_not_unpacked_again(tmp_path: Path) -> None:
    packed = _packed(a_dataset(tmp_path).with_pictures(2), "a.zip")
    packed.checked()
    before = (packed.here / "set/p0.png").stat().st_mtime_ns
    packed.checked()
    assert (packed.here / "set/p0.png").stat().st_mtime_ns == before
    (packed.here / "set/p0.png").unlink()
    assert len(packed.checked().samples) == 2


def test_an_archive_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    error = a_dataset(tmp_path).having(uri=f"file://{tmp_path}/no.zip").refusal()
    assert error.reason is Reason.OBJECT_NOT_FOUND
    assert "no.zip" in error.message


def test_an_archive_inside_a_dataset_is_named_with_the_cure(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(1)
    _packed(dataset, "inner.zip")
    (tmp_path / "inner.zip").rename(dataset.folder / "inner.zip")
    message = dataset.refusal().message
    assert "inner.zip is an archive (zip); unpack it" in message


def test_a_single_picture_as_uri_is_told_how_to_be_named(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(1)
    error = dataset.having(uri=f"file://{dataset.folder}/p0.png").refusal()
    assert error.reason is Reason.OBJECT_NOT_FOUND
    assert "dataset.uris" in error.message


def _listed(dataset: ADataset, *names: str) -> ADataset:
    return dataset.having(uris=[f"file://{dataset.folder}/{name}" for name in names])


def test_single_files_keep_what_tells_their_paths_apart(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path)
    for number, folder in enumerate(("x", "y")):
        (dataset.folder / folder).mkdir()
        a_picture(number).save(dataset.folder / folder / "same.png")
    (dataset.folder / "y" / "same.txt").write_text("from y")
    checked = _listed(dataset, "x/same.png", "y/same.png", "y/same.txt").checked()
    captions = {sample.picture.name: sample.caption for sample in checked.samples}
    assert captions == {"x/same.png": "zorp", "y/same.png": "zorp, from y"}


def test_faults_of_single_files_name_their_place_in_the_list(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(2)
    (dataset.folder / "bad.png").write_bytes(b"no picture")
    error = _listed(dataset, "p0.png", "bad.png", "p1.png", "gone.png").refusal()
    assert error.message.startswith("dataset.uris: 2 files")
    assert "uris[1] bad.png is not a JPG" in error.message
    assert "uris[3] gone.png is not there" in error.message


LISTS: dict[str, tuple[tuple[str, ...], str]] = {
    "the same file twice": (("p0.png", "p1.png", "p0.png"), "dataset.uris: 0 and 2 are both"),
    "an archive": (("p0.png", "a.zip"), r"dataset.uris\[1\]: .*is an archive; name it in dataset"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_makes_no_sense_is_an_invalid_job(name: str, tmp_path: Path) -> None:
    names, words = LISTS[name]
    with pytest.raises(TrainerError, match=words) as caught:
        _listed(a_dataset(tmp_path).with_pictures(2), *names).checked()
    assert caught.value.reason is Reason.INVALID_JOB


def _metadata(dataset: ADataset, *lines: object, name: str = "metadata.jsonl") -> ADataset:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (dataset.folder / name).write_text(text, encoding="utf-8")
    return dataset


def test_metadata_gives_captions_by_name(tmp_path: Path) -> None:
    dataset = _metadata(
        a_dataset(tmp_path).with_pictures(3),
        {"file_name": "p0.png", "text": "ein  Kürbis", "license": "mine"},
        {"file_name": "./p1.png", "text": "a zorp"},
        "",
        {"file_name": "gone.png", "text": "of nothing"},
    ).checked()
    captions = {sample.picture.name: sample.caption for sample in dataset.samples}
    assert captions == {"p0.png": "zorp, ein Kürbis", "p1.png": "a zorp", "p2.png": "zorp"}
    assert dataset.warnings == ["gone.png: metadata.jsonl has a caption of it, but it is not there"]


METADATA: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "metadata.jsonl line 1 is not JSON"),
    "deep JSON": ("[" * 100_000, "line 1 is not JSON"),
    "a list": ("[1]", "line 1 is no object"),
    "no name": ('{"text": "x"}', 'line 1 has no "file_name"'),
    "no text": ('{"file_name": "p0.png"}', 'line 1 has no "text" for p0.png'),
    "a number as text": ('{"file_name": "p0.png", "text": 3}', 'has no "text" for p0.png'),
    "an empty text": ('{"file_name": "p0.png", "text": " "}', "(p0.png) is empty"),
    "half a surrogate": ('{"file_name": "p0.png", "text": "\\ud800"}', "surrogate"),
    "a name twice": ('{"file_name": "p0.png", "text": "x"}\n' * 2, "line 2 names p0.png a second"),
}


@pytest.mark.parametrize("name", METADATA)
def test_a_broken_line_of_metadata_is_named(name: str, tmp_path: Path) -> None:
    text, words = METADATA[name]
    error = _metadata(a_dataset(tmp_path).with_pictures(1), text).refusal()
    assert error.reason is Reason.INVALID_CAPTIONS
    assert words in error.message


def test_metadata_in_another_encoding_is_named(tmp_path: Path) -> None:
    dataset = a_dataset(tmp_path).with_pictures(1)
    (dataset.folder / "metadata.jsonl").write_bytes('{"text": "ü"}'.encode("utf-16"))
    assert "metadata.jsonl is not UTF-8 text (byte 0)" in dataset.refusal().message


def test_a_caption_file_beside_metadata_is_one_caption_too_many(tmp_path: Path) -> None:
    dataset = _metadata(
        a_dataset(tmp_path).with_pictures(1), {"file_name": "p0.png", "text": "one"}
    )
    (dataset.folder / "p0.txt").write_text("two")
    error = dataset.refusal()
    assert "metadata.jsonl is a second caption of p0.png beside p0.txt" in error.message
