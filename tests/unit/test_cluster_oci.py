"""Images as files: what the importer relies on is checked on real tars and layouts."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from lora_cluster.images import full_name
from lora_cluster.oci import ImageSpec, OciFolder, write_archive


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(b"#!/bin/true\n")
    return path


def an_image(program: Path, reference: str = "localhost/thing:1") -> ImageSpec:
    return ImageSpec(
        reference=reference,
        files={"/bin/program": program},
        links={"/bin/alias": "program"},
        command=["/bin/program"],
    )


def archived_names(content: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return tar.getnames()


def test_an_image_that_was_added_is_found_by_its_reference(tmp_path: Path, program: Path) -> None:
    folder = OciFolder(tmp_path / "oci")
    descriptor = folder.add(an_image(program))
    assert folder.find("localhost/thing:1") == descriptor
    assert folder.find("localhost/thing:2") is None


def test_the_same_files_make_the_same_image(tmp_path: Path, program: Path) -> None:
    first = OciFolder(tmp_path / "a").add(an_image(program))
    program.touch()  # another time stamp is not another content
    second = OciFolder(tmp_path / "b").add(an_image(program))
    assert first["digest"] == second["digest"]


def test_a_changed_file_makes_another_image_under_the_same_name(
    tmp_path: Path, program: Path
) -> None:
    folder = OciFolder(tmp_path / "oci")
    first = folder.add(an_image(program))
    program.write_bytes(b"other")
    second = folder.add(an_image(program))
    assert first["digest"] != second["digest"]
    assert [entry["digest"] for entry in folder.index()] == [second["digest"]]


def test_an_archive_leaves_out_what_the_receiver_has(tmp_path: Path, program: Path) -> None:
    folder = OciFolder(tmp_path / "oci")
    descriptor = folder.add(an_image(program))
    manifest, config, layer = folder.digests(descriptor)
    output = io.BytesIO()
    sent = write_archive(
        output, folder, descriptor=descriptor, names=["localhost/thing:1"], present={layer}
    )
    names = archived_names(output.getvalue())
    assert f"blobs/{layer.replace(':', '/')}" not in names
    assert f"blobs/{config.replace(':', '/')}" in names
    assert f"blobs/{manifest.replace(':', '/')}" in names
    assert sent == folder.blob(manifest).stat().st_size + folder.blob(config).stat().st_size


def test_an_archive_names_the_image_once_for_each_name(tmp_path: Path, program: Path) -> None:
    folder = OciFolder(tmp_path / "oci")
    descriptor = folder.add(an_image(program))
    output = io.BytesIO()
    names = ["localhost/thing:1", "localhost/thing:dev"]
    write_archive(output, folder, descriptor=descriptor, names=names, present=set())
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as tar:
        member = tar.extractfile("index.json")
        assert member is not None
        index = json.load(member)
    found = [m["annotations"]["io.containerd.image.name"] for m in index["manifests"]]
    assert found == names


def test_dropping_an_image_drops_blobs_that_no_other_image_uses(
    tmp_path: Path, program: Path
) -> None:
    folder = OciFolder(tmp_path / "oci")
    folder.add(an_image(program, "localhost/thing:old"))
    kept = folder.add(an_image(program, "localhost/thing:same"))
    program.write_bytes(b"new")
    new = folder.add(an_image(program, "localhost/thing:new"))
    folder.keep_only(lambda name: name in ("localhost/thing:same", "localhost/thing:new"))
    stored = {path.name for path in (folder.path / "blobs" / "sha256").iterdir()}
    wanted = {digest.split(":")[1] for d in (kept, new) for digest in folder.digests(d)}
    assert stored == wanted


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("team/app:1", "docker.io/team/app:1"),
        ("localhost/app", "localhost/app:latest"),
        ("registry.local:5000/app", "registry.local:5000/app:latest"),
        ("localhost/lora-trainer:abc", "localhost/lora-trainer:abc"),
    ],
)
def test_a_reference_gets_the_name_by_which_the_kubelet_asks(given: str, expected: str) -> None:
    assert full_name(given) == expected
