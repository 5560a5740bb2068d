"""Missing Debian packages are installed once, in turn, and patiently."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora_cluster import packages
from lora_cluster.errors import ClusterError

# Refuses to run twice at once, as apt-get does; `install` brings the program `tool`.
APT = """#!/bin/sh
echo "$1" >> {folder}/calls
mkdir {folder}/running 2>/dev/null || {{ echo "E: Could not get lock {folder}" >&2; exit 100; }}
sleep 0.2
if [ "$1" = install ]; then printf '#!/bin/sh\\n' > {folder}/tool; chmod +x {folder}/tool; fi
rmdir {folder}/running
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    apt = tmp_path / "apt-get"
    apt.write_text(APT.format(folder=tmp_path))
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(packages, "RETRY_SECONDS", 0.01)
    return tmp_path


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def test_two_commands_that_miss_the_same_package_install_it_once(folder: Path) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(packages.ensure, [{"tool": "tool-package"}] * 2))
    assert calls(folder) == ["update", "install"]
    assert packages.missing({"tool": "tool-package"}) == []


def test_another_apt_get_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "running").mkdir()
    monkeypatch.setattr(time, "sleep", lambda _: (folder / "running").rmdir())
    packages.ensure({"tool": "tool-package"})
    assert calls(folder) == ["update", "update", "install"]
    assert "waiting for another apt-get" in capsys.readouterr().err


def test_patience_ends_with_what_apt_get_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "running").mkdir()
    monkeypatch.setattr(packages, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(ClusterError, match=r"(?s)Could not get lock.*Try: apt-get install"):
        packages.ensure({"tool": "tool-package"})


def test_who_is_not_root_is_told_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match=r"apt-get install .* tool-package"):
        packages.ensure({"tool": "tool-package"})
    assert not (folder / "calls").exists()
