"""The demonstration's parallel commands: answers in order, none left running after a failure."""

import sys
import time
from pathlib import Path

import pytest

from lora_demo.environment import DemoError, cluster_together

# Stands in for `python -m lora_cluster`: the first argument after them is a shell command.
SHELL = '#!/bin/sh\nshift 2\nexec sh -c "$1"\n'


@pytest.fixture(autouse=True)
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "shell"
    program.write_text(SHELL)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_answers_come_in_the_order_of_the_commands() -> None:
    assert cluster_together(("sleep 0.2; echo slow",), ("echo fast",)) == ["slow\n", "fast\n"]


def test_one_failure_ends_the_others_with_all_they_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    wait = f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"
    fail = f"while [ ! -e {pid} ]; do sleep 0.01; done; exit 3"
    with pytest.raises(DemoError, match="exit 3"):
        cluster_together((wait,), (fail,))
    child = Path(f"/proc/{pid.read_text().strip()}/status")
    while child.exists() and "(zombie)" not in child.read_text():
        time.sleep(0.01)
