"""Operators that start at once: forked from a process that has read all their code.

A module of its own because reading the code is most of what a start costs, and a test of crash
points starts hundreds. What is forked is a process as any other: it shares nothing with its parent,
and is killed as a lost node would.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.api.operator_process import PATIENCE_SECONDS, Operator, eventually

import lora_operator.__main__ as program

# With pytest's own main module among them, or each child would read that again.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["__main__", "tests.api.warm_operator"])


class WarmOperator(Operator):
    """An operator process; `start` and `kill` as often as a test likes."""

    def __init__(
        self, kubeconfig: Path, *arguments: str, constants: Mapping[str, float] | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            kubeconfig: What it finds its API server by.
            arguments: Of its command line.
            constants: Limits that would take too long for a test, by module and name.
        """
        super().__init__(kubeconfig, *arguments)
        self._constants = dict(constants or {})
        self._child: ForkServerProcess | None = None

    def start(self, *, wait: bool = True) -> WarmOperator:
        given = (self.options, self.environment, self.log, self._constants)
        self._child = child = _SERVER.Process(target=_live, args=given, daemon=True)
        child.start()
        if wait:
            eventually(self._is_up, lambda: f"the operator is ready: {self.log.read_text()}")
        return self

    def kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.join(PATIENCE_SECONDS)

    def _is_up(self) -> bool:
        assert self._child is not None
        assert self._child.is_alive(), self.log.read_text()
        return self.ready


def _live(
    options: list[str], environment: dict[str, str], log: Path, constants: dict[str, float]
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    for path, value in constants.items():
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
        setattr(importlib.import_module(module), name, value)
    sys.exit(program.main(options))
