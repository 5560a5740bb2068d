"""The same steps through accelerate, as the trainer takes them, and with the same done by hand.

By hand is torch.autocast around the loss, and one averaging of all gradients after the backward
pass. The rest of a step (loss, clipping, gate, AdamW) is the same code in both.

Both take turns in one set of processes, so that a busy machine slows both alike.

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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from benchmarks.trainer.scenarios import ROOT, SMALL_BASE

from lora_api.settings import BaseModelSettings, Optimizer, Precision
from lora_trainer.basemodel import BaseModel
from lora_trainer.fetch_base import fetch_base_model, open_base
from lora_trainer.group import Arithmetic, Group, Trained
from lora_trainer.guard import Gate
from lora_trainer.lora import attach, find_layers
from lora_trainer.optimizers import make_optimizer
from lora_trainer.processes import training_together
from lora_trainer.recipes import RECIPES, Batch, LossSettings, check_base, load_recipe
from lora_trainer.stopping import StopFlag
from lora_trainer.update import Updater

ACCELERATE, BY_HAND = "accelerate", "by hand"
ARMS = (ACCELERATE, BY_HAND)
BATCH_SIZE = 8
RANK = 16
# Steps of one arm before the other has its turn, and before anything is timed.
TURN = 4
WARM_UP_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One measurement."""

    processes: int
    """How many train together."""

    precision: str
    """fp32 or bf16: of the base, and of the forward pass."""

    steps: int
    """Of each arm."""


class _ByHand(Updater):
    """Averages all gradients in one piece."""

    def backward(self, loss: torch.Tensor) -> None:
        torch.autograd.backward(loss)

    def apply(self, step: int, losses: torch.Tensor, *, learning_rate: float) -> torch.Tensor:
        if self.group.size > 1:
            self._average([p.grad for p in self.parameters.values() if p.grad is not None])
        return super().apply(step, losses, learning_rate=learning_rate)

    def _average(self, gradients: list[torch.Tensor]) -> None:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.group.size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


class _Arm:
    """One way to train, with a model and an optimiser of its own."""

    def __init__(self, name: str, group: Group, folder: Path) -> None:
        self.name, self._group = name, group
        base = _base(folder)
        self._recipe = load_recipe("sd15", base)
        self._dtype = torch.bfloat16 if group.precision is Precision.BF16 else torch.float32
        self._denoiser = self._recipe.load_denoiser(device=group.device, dtype=self._dtype)
        layers = find_layers(self._denoiser, RECIPES["sd15"].target_modules)
        self.parameters = attach(
            self._denoiser.train(), layers, rank=RANK, alpha=RANK, dropout=0.0, seed=7
        )
        self._width = int(base.configs["unet"]["cross_attention_dim"])
        values = self.parameters.values()
        self._forward = group.shared(values) if name == ACCELERATE else Trained(values)
        self._updater = (Updater if name == ACCELERATE else _ByHand)(
            parameters=self.parameters,
            optimizer=make_optimizer(
                Optimizer.ADAMW, values, learning_rate=1e-3, weight_decay=0.01
            ),
            gate=Gate(group.device),
            max_grad_norm=1.0,
            group=group,
        )

    def step(self, number: int) -> None:
        """One optimiser step, as the loop does it."""
        self._group.anyone(False)  # whether to stop, asked before each batch
        losses = self._losses(number * self._group.size + self._group.rank)
        self._updater.backward(losses.mean())
        self._updater.apply(number, losses.detach(), learning_rate=1e-3)

    def _losses(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        batch = Batch(
            moments=torch.randn(BATCH_SIZE, 8, 8, 8, generator=generator),
            text={"hidden_states": torch.randn(BATCH_SIZE, 77, self._width, generator=generator)},
            geometry=torch.zeros(BATCH_SIZE, 6, dtype=torch.int64),
            levels=torch.rand(BATCH_SIZE, generator=generator),
        )
        compute = partial(
            self._recipe.losses,
            self._denoiser,
            batch,
            settings=LossSettings(),
            generator=generator,
        )
        half = self._dtype is torch.bfloat16
        by_hand = torch.autocast("cpu", torch.bfloat16, enabled=half)
        with self._group.autocast() if self.name == ACCELERATE else by_hand:
            losses: torch.Tensor = self._forward(compute)
        return losses

    def digest(self) -> str:
        """Of the trained weights."""
        found = hashlib.sha256()
        for value in self.parameters.values():
            found.update(value.detach().numpy().tobytes())
        return found.hexdigest()


def _base(folder: Path) -> BaseModel:
    return fetch_base_model(
        open_base(BaseModelSettings(uri=f"file://{SMALL_BASE}"), stop=StopFlag()),
        folder / "base",
        RECIPES["sd15"],
        check=lambda model: check_base("sd15", model),
        advance=lambda _done, _total: None,
    )


def _train(case: Case, folder: Path, group: Group) -> None:
    """Train in one process of a case; the first one writes what it saw."""
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    arms = [_Arm(name, group, folder) for name in ARMS]
    clocks: dict[str, _Clock] = {arm.name: _Clock() for arm in arms}
    for number in range(WARM_UP_STEPS):
        for arm in arms:
            arm.step(number)
    for turn in range(case.steps // TURN):
        for arm in arms if turn % 2 else reversed(arms):
            with clocks[arm.name].running():
                for nth in range(TURN):
                    arm.step(WARM_UP_STEPS + turn * TURN + nth)
    found = {
        arm.name: {
            "wall_per_step": clocks[arm.name].wall_per_step,
            "cpu_per_step": clocks[arm.name].cpu_per_step,
            "digest": arm.digest(),
        }
        for arm in arms
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


def _work(case: Case) -> None:
    """A whole run in this process and its helpers."""
    with tempfile.TemporaryDirectory() as name:
        work = partial(_train, case, Path(name))
        with training_together(
            work,
            Arithmetic(precision=Precision(case.precision)),
            size=case.processes,
            folder=Path(name),
            fatal=lambda error: os._exit(1),
        ) as group:
            work(group)
        print((Path(name) / "found.json").read_text())


def measured(case: Case) -> dict[str, Any]:
    """Run a case in processes of its own."""
    arguments = ["--worker", "--processes", str(case.processes)]
    arguments += ["--precision", case.precision, "--steps", str(case.steps)]
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


def compare(case: Case, *, runs: int) -> dict[str, float | bool]:
    """Through accelerate to by hand: above 1 is better for steps/s, below 1 for CPU seconds."""
    found = [measured(case) for _ in range(runs)]

    def ratio(key: str) -> float:
        ratios = [float(one[ACCELERATE][key] / one[BY_HAND][key]) for one in found]
        return statistics.median(ratios)

    return {
        "steps_per_second": round(
            statistics.median(1 / one[ACCELERATE]["wall_per_step"] for one in found), 2
        ),
        "steps_per_second_ratio": round(1 / ratio("wall_per_step"), 3),
        "cpu_seconds_per_step_ratio": round(ratio("cpu_per_step"), 3),
        "same_bytes": all(one[ACCELERATE]["digest"] == one[BY_HAND]["digest"] for one in found),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=40, help="of each arm, timed")
    given = parser.parse_args()
    if given.worker:
        _work(
            Case(processes=given.processes, precision=given.precision, steps=given.steps),
        )
        return
    results = []
    for precision in given.precisions:
        for count in (1, 2):
            case = Case(processes=count, precision=precision, steps=given.steps)
            result = {"precision": precision, "processes": count, **compare(case, runs=given.runs)}
            print(json.dumps(result), flush=True)
            results.append(result)
    target = ROOT / "build" / "bench" / "accelerate_beside.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {"load_average": round(os.getloadavg()[0], 1), "results": results}
    target.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
