"""Job documents in sentences, and ways to run them: `a_job(...).with_steps(6)`."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch

from lora_api.result import Result
from lora_trainer.cli import main

# No test takes so long; a busy machine on which helpers import torch anew may.
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class AJob:
    """A job document in the making, with its workspace."""

    folder: Path
    body: dict[str, Any] = field(default_factory=dict)
    workspace_name: str = "workspace"

    def having(self, path: str, value: object) -> Self:
        """The same job with one field set, e.g. ``having("network.rank", 2)``."""
        body = copy.deepcopy(self.body)
        *parents, leaf = path.split(".")
        node = body
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
        return replace(self, body=body)

    def with_steps(self, count: int) -> Self:
        return self.having("optimization.steps", count)

    def in_workspace(self, name: str) -> Self:
        """The same job in another workspace, with an output of its own."""
        output = f"file://{self.folder}/output-{name}"
        return replace(self.having("output.uri", output), workspace_name=name)

    def ephemeral(self) -> Self:
        """The same job, told that its workspace is lost with its process."""
        return self.having("workspace.ephemeral", True)

    @property
    def is_ephemeral(self) -> bool:
        return bool(self.body.get("workspace", {}).get("ephemeral"))

    def lose(self) -> None:
        """What becomes of the workspace when the process has ended."""
        if self.is_ephemeral:
            shutil.rmtree(self.workspace, ignore_errors=True)

    @property
    def memory(self) -> Path:
        """Where an attempt finds what earlier ones did."""
        if self.is_ephemeral:
            return self.output / ".workspace" / str(self.body["runId"])
        return self.workspace

    @property
    def workspace(self) -> Path:
        return self.folder / self.workspace_name

    @property
    def output(self) -> Path:
        return Path(self.body["output"]["uri"].removeprefix("file://"))

    @property
    def model(self) -> bytes:
        """The published LoRA's bytes."""
        return (self.output / "model.safetensors").read_bytes()

    def run(self, *options: str, command: str = "run") -> tuple[int, Result]:
        """Run in this process; returns exit code and termination message."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"job-{self.workspace_name}.json"
        path.write_text(json.dumps(self.body))
        said = self.folder / f"said-{self.workspace_name}"
        said.unlink(missing_ok=True)
        os.environ["LORA_TERMINATION_LOG"] = str(said)
        code = main([command, str(path), "--workspace", str(self.workspace), *options])
        return code, Result.model_validate_json(said.read_bytes())

    def start(self) -> Forked:
        """Run in a forked process, which starts without importing torch anew."""
        # One thread, so that no thread pool exists that a fork would break.
        torch.set_num_threads(1)
        process = multiprocessing.get_context("fork").Process(
            target=lambda: os._exit(self.run()[0])
        )
        process.start()
        return Forked(process, self)


@dataclass(frozen=True)
class Forked:
    """A run in a process of its own."""

    process: Any
    job: AJob

    @property
    def pid(self) -> int:
        pid: int = self.process.pid
        return pid

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait for something to happen while the run lives."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.is_alive(), "the run ended before"
            if time.monotonic() > give_up:
                self.process.kill()
                raise AssertionError("it never happened")
            time.sleep(0.002)

    def checkpoint_exists(self, *, at_least: int) -> bool:
        """Whether a checkpoint of that step or a later one is where another attempt finds it."""
        found = self.job.memory.glob("checkpoints/*/step-*.pt")
        return any(int(path.stem.removeprefix("step-")) >= at_least for path in found)

    def exit_code(self) -> int:
        self.process.join(PATIENCE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError("the run never ended")
        code: int = self.process.exitcode
        return code


def a_job(folder: Path, *, base: Path, dataset: Path) -> AJob:
    """A small valid job on local files."""
    body = {
        "version": "v1",
        "name": "test-run",
        "runId": "run-1",
        "recipe": "sd15",
        "baseModel": {"uri": f"file://{base}"},
        "dataset": {"uri": f"file://{dataset}", "triggerWord": "zorp", "minFileBytes": 0},
        "network": {"rank": 4, "alpha": 2},
        "optimization": {
            "steps": 4,
            "batchSize": 2,
            "learningRate": 1e-3,
            "resolution": 64,
            "seed": 7,
        },
        "checkpoints": {"everySteps": 2},
        "validation": {"prompts": ["zorp"], "samplingSteps": 2},
        "output": {"uri": f"file://{folder}/output"},
    }
    return AJob(folder, body)
