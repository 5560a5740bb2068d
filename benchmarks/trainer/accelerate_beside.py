"""The same steps with accelerate's `prepare` (DistributedDataParallel) and with what we have.

Ours is torch.autocast around the loss, and one averaging of all gradients after the backward pass
(`lora_trainer/group.py`). The rest of a step (loss, clipping, gate, AdamW) is the same code in
both, because accelerate has nothing in its place.

Speed is taken in one set of processes in which both arms take turns, so that a busy machine slows
both alike; start, memory and bytes are taken from runs of one arm alone.

    OMP_NUM_THREADS=1 python -m benchmarks.trainer.accelerate_beside
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from benchmarks.trainer.scenarios import ROOT, SMALL_BASE

from lora_api.settings import BaseModelSettings, Optimizer
from lora_trainer.basemodel import BaseModel
from lora_trainer.fetch_base import fetch_base_model, open_base
from lora_trainer.group import Group
from lora_trainer.guard import Gate
from lora_trainer.lora import attach, find_layers
from lora_trainer.optimizers import make_optimizer
from lora_trainer.processes import training_together
from lora_trainer.recipes import RECIPES, Batch, LossSettings, Recipe, check_base, load_recipe
from lora_trainer.stopping import StopFlag
from lora_trainer.update import Updater

OURS, THEIRS = "ours", "accelerate"
ARMS = (OURS, THEIRS)
BATCH_SIZE = 8
RANK = 16
# Steps of one arm before the other has its turn, and before anything is timed.
TURN = 4
WARM_UP_STEPS = 3
PEAK = "peak_rss_bytes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One measurement."""

    arms: tuple[str, ...]
    """Who trains, taking turns."""

    processes: int
    """How many train together."""

    precision: str
    """fp32 or bf16: of the base, and of the forward pass."""

    accumulation: int = 1
    """Batches of one step and process."""

    steps: int
    """Of each arm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Accelerated(Group):
    """Gradients are averaged by the wrapper during the backward pass."""

    accelerator: Any = field(repr=False)

    def average(self, gradients: list[torch.Tensor]) -> None:
        """Nothing is left to do."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        gathered: torch.Tensor = self.accelerator.gather(values)
        return gathered


class _Loss(torch.nn.Module):
    """The loss as a module, since that is what can be wrapped."""

    def __init__(self, recipe: Recipe, denoiser: torch.nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._recipe = recipe

    def forward(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        return self._recipe.losses(
            self.denoiser, batch, settings=LossSettings(), generator=generator
        )


class _Arm:
    """One way to train, with a model and an optimiser of its own."""

    def __init__(self, name: str, case: Case, group: Group, folder: Path) -> None:
        self.name, self._case, self._rank = name, case, group.rank
        self._half = case.precision == "bf16"
        base = _base(folder)
        recipe = load_recipe("sd15", base)
        dtype = torch.bfloat16 if self._half else torch.float32
        denoiser = recipe.load_denoiser(device=group.device, dtype=dtype)
        layers = find_layers(denoiser, RECIPES["sd15"].target_modules)
        self.parameters = attach(denoiser, layers, rank=RANK, alpha=RANK, dropout=0.0, seed=7)
        self._loss: Any = _Loss(recipe, denoiser.train())
        self._accelerator: Any = None
        if name == THEIRS:
            self._accelerator = _accelerator(case, group)
            self._loss = self._accelerator.prepare(self._loss)
            group = _Accelerated(
                rank=group.rank,
                size=group.size,
                device=group.device,
                accelerator=self._accelerator,
            )
        self._width = int(base.configs["unet"]["cross_attention_dim"])
        self._group = group
        self._updater = Updater(
            parameters=self.parameters,
            optimizer=make_optimizer(
                Optimizer.ADAMW, self.parameters.values(), learning_rate=1e-3, weight_decay=0.01
            ),
            gate=Gate(group.device),
            max_grad_norm=1.0,
            group=group,
        )

    def step(self, number: int) -> None:
        """One optimiser step, as the loop does it."""
        found = []
        for nth in range(self._case.accumulation):
            self._group.anyone(False)  # whether to stop, asked before each batch
            first = (number * self._case.accumulation + nth) * self._group.size
            found.append(self._pass(first + self._rank))
        self._updater.apply(number, torch.cat(found), learning_rate=1e-3)

    def _pass(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        batch = Batch(
            moments=torch.randn(BATCH_SIZE, 8, 8, 8, generator=generator),
            text={"hidden_states": torch.randn(BATCH_SIZE, 77, self._width, generator=generator)},
            geometry=torch.zeros(BATCH_SIZE, 6, dtype=torch.int64),
            levels=torch.rand(BATCH_SIZE, generator=generator),
        )
        if self._accelerator is None:
            with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
                losses: torch.Tensor = self._loss(batch, generator)
            self._updater.backward(losses.mean() / self._case.accumulation)
            return losses.detach()
        with self._accelerator.accumulate(self._loss):
            losses = self._loss(batch, generator)
            self._accelerator.backward(losses.mean())
        return losses.detach()

    def digest(self) -> str:
        """Of the trained weights."""
        found = hashlib.sha256()
        for value in self.parameters.values():
            found.update(value.detach().numpy().tobytes())
        return found.hexdigest()


def _accelerator(case: Case, group: Group) -> Accelerator:
    # The processes have met already; accelerate joins them by what torchrun would have set.
    if group.size > 1:
        numbers = {"RANK": group.rank, "LOCAL_RANK": group.rank, "WORLD_SIZE": group.size}
        numbers |= {"LOCAL_WORLD_SIZE": group.size, "MASTER_PORT": 29500}
        os.environ |= {name: str(value) for name, value in numbers.items()}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    return Accelerator(
        cpu=True,
        mixed_precision="bf16" if case.precision == "bf16" else "no",
        gradient_accumulation_steps=case.accumulation,
    )


def _base(folder: Path) -> BaseModel:
    return fetch_base_model(
        open_base(BaseModelSettings(uri=f"file://{SMALL_BASE}"), stop=StopFlag()),
        folder / "base",
        RECIPES["sd15"],
        check=lambda model: check_base("sd15", model),
        advance=lambda _done, _total: None,
    )


def _train(case: Case, folder: Path, started: float, group: Group) -> None:
    """Train in one process of a case; the first one writes what it saw."""
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    arms = [_Arm(name, case, group, folder) for name in case.arms]
    first_step, first_step_cpu = 0.0, 0.0
    clocks: dict[str, _Clock] = {arm.name: _Clock() for arm in arms}
    for number in range(WARM_UP_STEPS):
        for arm in arms:
            arm.step(number)
            first_step = first_step or time.time() - started
            first_step_cpu = first_step_cpu or time.process_time()
    for turn in range(case.steps // TURN):
        for arm in arms if turn % 2 else reversed(arms):
            with clocks[arm.name].running():
                for nth in range(TURN):
                    arm.step(WARM_UP_STEPS + turn * TURN + nth)
    found = {
        "first_step_seconds": first_step,
        "first_step_cpu_seconds": first_step_cpu,
        PEAK: _peak_bytes(),
        "arms": {
            arm.name: {
                "wall_per_step": clocks[arm.name].wall_per_step,
                "cpu_per_step": clocks[arm.name].cpu_per_step,
                "digest": arm.digest(),
            }
            for arm in arms
        },
    }
    if group.leads:
        (folder / "found.json").write_text(json.dumps(found))


class _Clock:
    """Wall and CPU seconds of an arm's turns; the median turn, because others use the machine."""

    def __init__(self) -> None:
        self._turns: list[tuple[float, float]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._turns.append((time.perf_counter() - wall, time.process_time() - cpu))

    @property
    def wall_per_step(self) -> float:
        return self._median(0)

    @property
    def cpu_per_step(self) -> float:
        return self._median(1)

    def _median(self, which: int) -> float:
        return statistics.median([turn[which] / TURN for turn in self._turns] or [0.0])


def _peak_bytes() -> int:
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    ]
    return int(line.split()[1]) * 1024


def _work(case: Case, started: float) -> None:
    """A whole run in this process and its helpers; `started` is time.time() before it."""
    with tempfile.TemporaryDirectory() as name:
        work = partial(_train, case, Path(name), started)
        with training_together(
            work, size=case.processes, folder=Path(name), fatal=lambda error: os._exit(1)
        ) as group:
            work(group)
        print((Path(name) / "found.json").read_text())


def measured(case: Case) -> dict[str, Any]:
    """Run a case in processes of its own."""
    arguments = [*case.arms, "--worker", "--processes", str(case.processes)]
    arguments += ["--precision", case.precision, "--steps", str(case.steps)]
    arguments += ["--accumulation", str(case.accumulation), "--started", str(time.time())]
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.trainer.accelerate_beside", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise SystemExit(answer.stderr[-3000:])
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def compare(processes: int, precision: str, *, runs: int, steps: int) -> dict[str, float | bool]:
    """Ours to accelerate's: above 1 is better for steps/s, below 1 for the rest."""
    case = Case(arms=ARMS, processes=processes, precision=precision, steps=steps)
    found = [measured(case)["arms"] for _ in range(runs)]

    def ratio(key: str) -> float:
        ratios = [float(one[THEIRS][key] / one[OURS][key]) for one in found]
        return round(statistics.median(ratios), 3)

    return {
        "ours_steps_per_second": round(
            statistics.median(1 / one[OURS]["wall_per_step"] for one in found), 2
        ),
        "steps_per_second_ratio": ratio("wall_per_step"),
        "cpu_seconds_per_step_ratio": round(1 / ratio("cpu_per_step"), 3),
        "same_bytes_as_theirs": all(one[OURS]["digest"] == one[THEIRS]["digest"] for one in found),
    }


def alone(precision: str, *, runs: int) -> dict[str, Any]:
    """Each arm by itself: one process that accumulates twice, and two processes that do not."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(runs):
        for arm in ARMS:
            for count in (1, 2):
                case = Case(
                    arms=(arm,),
                    processes=count,
                    precision=precision,
                    accumulation=2 // count,
                    steps=TURN,
                )
                found.setdefault((arm, count), []).append(measured(case))
    digests = {
        arm: {
            one["arms"][arm]["digest"]
            for (whose, _), all_ in found.items()
            if whose == arm
            for one in all_
        }
        for arm in ARMS
    }

    def ratio(key: str, count: int) -> float:
        ours, theirs = (
            statistics.median([float(one[key]) for one in found[arm, count]]) for arm in ARMS
        )
        return round(ours / theirs, 3)

    keys = ("first_step_seconds", "first_step_cpu_seconds", PEAK)
    return {
        "two_end_with_the_bytes_of_one": {arm: len(digests[arm]) == 1 for arm in ARMS},
        "ratios": {str(count): {key: ratio(key, count) for key in keys} for count in (1, 2)},
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--accumulation", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=40, help="of each arm, timed")
    given = parser.parse_args()
    if given.worker:
        _work(
            Case(
                arms=tuple(given.arms),
                processes=given.processes,
                precision=given.precision,
                accumulation=given.accumulation,
                steps=given.steps,
            ),
            given.started,
        )
        return
    results = []
    for precision in given.precisions:
        result: dict[str, Any] = {"precision": precision}
        for count in (1, 2):
            result[f"together, {count}"] = compare(
                count, precision, runs=given.runs, steps=given.steps
            )
        result["alone"] = alone(precision, runs=given.runs)
        print(json.dumps(result, indent=2), flush=True)
        results.append(result)
    target = ROOT / "build" / "bench" / "accelerate_beside.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {"load_average": round(os.getloadavg()[0], 1), "results": results}
    target.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
