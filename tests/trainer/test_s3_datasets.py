"""Datasets on a real S3 server that are no prefix: archives, and single files of anywhere."""

import os
import zipfile
from pathlib import Path

import pytest
from tests.datasets import ADataset, a_dataset
from tests.trainer.s3server import S3Server

from lora_api.reasons import Reason


@pytest.fixture
def remote(tmp_path: Path, s3: S3Server) -> ADataset:
    """Three pictures under s3://datasets/remote/, and in s3://datasets/remote.zip."""
    os.environ.update(s3.environment())
    dataset = a_dataset(tmp_path).with_pictures(3)
    (dataset.folder / "p1.txt").write_text("a zorp on grass")
    s3.upload(dataset.folder, "datasets", "remote")
    packed = tmp_path / "packed" / "remote.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in dataset.folder.iterdir():
            archive.write(path, path.name)
    s3.client.fput_object("datasets", "remote.zip", str(packed))
    return dataset


def test_prefix_archive_and_list_hold_the_same_dataset(remote: ADataset) -> None:
    names = ("p0.png", "p1.png", "p1.txt", "p2.png")
    spellings: list[dict[str, object]] = [
        {"uri": "s3://datasets/remote/"},
        {"uri": "s3://datasets/remote.zip"},
        {"uris": [f"s3://datasets/remote/{name}" for name in names]},
    ]
    digests = {remote.having(**spelling).checked().digest for spelling in spellings}
    assert digests == {remote.checked().digest}


MISTAKES: dict[str, tuple[dict[str, object], Reason, str]] = {
    "a file that is not there": (
        {"uris": ["s3://datasets/remote/p0.png", "s3://datasets/remote/p9.png"]},
        Reason.INVALID_IMAGES,
        "uris[1] p9.png is not there: s3://datasets/remote/p9.png",
    ),
    "a prefix among files": (
        {"uris": ["s3://datasets/remote/p0.png", "s3://datasets/remote/p"]},
        Reason.INVALID_IMAGES,
        "uris[1] p is not there",
    ),
    "a bucket that is not there": (
        {"uris": ["s3://datasets/remote/p0.png", "s3://nowhere/p9.png"]},
        Reason.BUCKET_NOT_FOUND,
        "dataset.uris[1]",
    ),
    "a file as prefix": (
        {"uri": "s3://datasets/remote/p0.png"},
        Reason.OBJECT_NOT_FOUND,
        "is a file; name the folder",
    ),
    "an archive that is not there": (
        {"uri": "s3://datasets/other.zip"},
        Reason.OBJECT_NOT_FOUND,
        "nothing lies under s3://datasets/other.zip",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_not_there_is_named_with_its_field(name: str, remote: ADataset) -> None:
    spelling, reason, words = MISTAKES[name]
    error = remote.having(**spelling).refusal()
    assert (error.reason, words in error.message) == (reason, True), error.message


def test_an_archive_that_changed_is_fetched_and_unpacked_anew(
    remote: ADataset, s3: S3Server, tmp_path: Path
) -> None:
    packed = remote.having(uri="s3://datasets/remote.zip")
    first = packed.checked().digest
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.write(remote.folder / "p0.png", "only.png")
    s3.client.fput_object("datasets", "remote.zip", str(tmp_path / "new.zip"))
    second = packed.checked()
    assert second.digest != first
    assert [sample.picture.name for sample in second.samples] == ["only.png"]
