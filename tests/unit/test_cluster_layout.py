"""Names, records and keys: what must stay the same between two commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_cluster import builds, configs
from lora_cluster.errors import ClusterError, last_lines
from lora_cluster.layout import Layout, Record, layout_for, load_record
from lora_cluster.pki import issue_all


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(name="lora", state=tmp_path / "state", cache=tmp_path / "cache")


def a_record() -> Record:
    return Record(provider="host", api_port=1, s3_port=2, s3_access_key="a", s3_secret_key="b")


@pytest.mark.parametrize("name", ["lora", "a", "e2e-2", "a" * 20])
def test_a_plain_word_names_a_cluster(name: str) -> None:
    assert layout_for(name).name == name


@pytest.mark.parametrize("name", ["", "Lora", "../x", "a" * 21, "-a", "a-", "a b"])
def test_a_name_that_could_escape_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="BadName"):
        layout_for(name)


def test_a_record_is_read_back_as_it_was_written(layout: Layout) -> None:
    a_record().save(layout)
    assert load_record(layout) == a_record()
    assert layout.record_file.stat().st_mode & 0o077 == 0


def test_no_record_is_no_cluster(layout: Layout) -> None:
    assert load_record(layout) is None


def test_a_damaged_record_says_what_to_do(layout: Layout) -> None:
    a_record().save(layout)
    layout.record_file.write_text("{")
    with pytest.raises(ClusterError, match="run `down`"):
        load_record(layout)


def a_module(folder: Path) -> Path:
    (folder / "coredns").mkdir(parents=True)
    for file in ("go.mod", "go.sum", "coredns/main.go"):
        (folder / file).write_text(file)
    return folder


@pytest.mark.parametrize("file", ["go.mod", "go.sum", "coredns/main.go"])
def test_a_build_has_another_key_when_any_input_changes(tmp_path: Path, file: str) -> None:
    module = a_module(tmp_path / "m")
    before = builds.content_key(module, go_version="go1.26.0")
    assert before == builds.content_key(module, go_version="go1.26.0")
    (module / file).write_text("changed")
    assert builds.content_key(module, go_version="go1.26.0") != before


def test_a_build_has_another_key_with_another_compiler(tmp_path: Path) -> None:
    module = a_module(tmp_path / "m")
    keys = {builds.content_key(module, go_version=version) for version in ("go1.25.0", "go1.26.0")}
    assert len(keys) == 2


def test_a_kubeconfig_holds_all_it_needs(tmp_path: Path) -> None:
    issue_all(tmp_path, configs.CONTROL_PLANE_IDENTITIES)
    text = configs.kubeconfig(server="https://127.0.0.1:1", pki=tmp_path, user="admin")
    document = json.loads(text)
    assert document["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"
    assert str(tmp_path) not in text


def test_the_end_of_a_log_is_shown_and_a_missing_one_is_said(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert "no log" in last_lines(log)
    log.write_text("".join(f"line {i}\n" for i in range(100)))
    assert last_lines(log, count=2) == "    line 98\n    line 99"
