"""Our trainer and its peers on the same work: speed, start, memory, whole runs, as ratios.

python -m benchmarks.trainer.measure --peers folder
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.trainer.scenarios import ROOT, Scenario, prepare_pictures, scenarios
from benchmarks.trainer.trainers import Command, DiffusersScript, Ours, SdScripts, Trainer
from rich.console import Console
from rich.table import Table

_MORE_IS_BETTER = {"steps_per_second", "stepping_share"}
PROBE = Path(__file__).parent / "probe"
WEIGH = Path(__file__).parent / "weigh.py"
RUN_HERE = "run here"
# Steps at the start that no rate counts: allocators, caches and lazy set-up.
WARM_UP_STEPS = 2
FIGURES = {
    "steps_per_second": "steps/s",
    "first_step_seconds": "start to first step, s",
    "whole_run_seconds": "whole run, s",
    "stepping_share": "share of it between first and last step",
    "peak_rss_bytes": "peak memory, MiB",
    "peak_gpu_bytes": "peak GPU memory, MiB",
}


class TrainerFailedError(Exception):
    """A trainer that did not do the work."""


def measured(command: Command, *, steps: int, log: Path, probe: Path) -> dict[str, float]:
    """Run one trainer to its end and read what the probe saw.

    Args:
        command: What to run.
        steps: Optimiser steps that it will do.
        log: Gets its output.
        probe: Gets a line for each of its steps.

    Raises:
        TrainerFailedError: It failed, or did other steps; with the end of its log.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROBE),
        "STEP_PROBE_FILE": str(probe),
        "STEP_PROBE_SYNC": f"{WARM_UP_STEPS},{steps}",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LORA_TERMINATION_LOG": os.devnull,
    }
    probe.unlink(missing_ok=True)
    weight = probe.with_name("weight")
    weight.unlink(missing_ok=True)
    started = time.time()
    with log.open("wb") as output:
        status = subprocess.run(
            [sys.executable, "-I", str(WEIGH), str(weight), *command.arguments],
            cwd=command.folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    ended = time.time()
    lines = [line.split() for line in probe.read_text().splitlines()] if probe.exists() else []
    if status or len(lines) != steps:
        raise TrainerFailedError(
            f"{' '.join(command.arguments[:3])}: status {status}, {len(lines)} of {steps} steps\n"
            f"{log.read_text(errors='replace')[-2000:]}"
        )
    stamps = [float(when) for when, _ in lines]
    figures = {
        "steps_per_second": (steps - WARM_UP_STEPS) / (stamps[-1] - stamps[WARM_UP_STEPS - 1]),
        "first_step_seconds": stamps[0] - started,
        "whole_run_seconds": ended - started,
        "stepping_share": (stamps[-1] - stamps[0]) / (ended - started),
        "peak_rss_bytes": float(weight.read_text()),
    }
    if int(lines[-1][1]):
        figures["peak_gpu_bytes"] = float(lines[-1][1])
    return figures


def compare(
    scenario: Scenario, trainers: list[Trainer], *, runs: int, scratch: Path
) -> dict[str, Any]:
    """All trainers in turn, several times; medians by trainer, and who failed.

    Args:
        scenario: What to train.
        trainers: Those to compare; each round runs every one of them once.
        runs: Rounds; one of a scenario that only ours runs.
        scratch: For pictures, logs and outputs.
    """
    rounds: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    pictures = prepare_pictures(scratch / "pictures", side=scenario.resolution)
    count = 1 if scenario.alone else runs
    for number in range(1, count + 1):
        for trainer in trainers:
            if not trainer.fits(scenario) or trainer.name in failed:
                continue
            folder = scratch / "run"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            print(f"{scenario.name}: {trainer.name}, round {number} of {count}", file=sys.stderr)
            try:
                figures = measured(
                    trainer.command(scenario, pictures, folder),
                    steps=scenario.steps,
                    log=scratch / f"{trainer.name}.log",
                    probe=scratch / "steps",
                )
            except TrainerFailedError as error:
                print(error, file=sys.stderr)
                failed[trainer.name] = str(error)
                continue
            rounds.setdefault(trainer.name, []).append(figures)
    medians = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in rounds.items()
    }
    return {"rounds": count, "trainers": medians, "failed": failed, "ratios": ratios(medians)}


def ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ours to the best peer, figure by figure; for steps/s above 1 is better, else below."""
    ours = found.get(Ours.name, {})
    peers = [figures for name, figures in found.items() if name != Ours.name]
    best = {
        key: (max if key in _MORE_IS_BETTER else min)(peer[key] for peer in peers)
        for key in ours
        if peers and all(key in peer for peer in peers)
    }
    return {key: round(ours[key] / value, 2) for key, value in best.items()}


def show(results: list[dict[str, Any]]) -> None:
    """One table for each scenario that was run, and the names of the others."""
    console = Console()
    for result in results:
        if result["status"] != RUN_HERE:
            console.print(f"{result['scenario']}: {result['status']}")
            continue
        trainers = result["trainers"]
        table = Table("", *trainers, "ours / best peer", title=result["scenario"])
        for key, title in FIGURES.items():
            values = [figures.get(key) for figures in trainers.values()]
            if any(value is not None for value in values):
                ratio = result["ratios"].get(key, "-")
                table.add_row(title, *(_cell(key, value) for value in values), f"{ratio}")
        console.print(table)
        for name in result["failed"]:
            console.print(f"{name} failed; the end of its log is in the JSON")


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 2**20:.0f}" if key.endswith("bytes") else f"{value:.2f}"


def _device() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{os.cpu_count()} cores, {names[0].partition(':')[2].strip() if names else 'unknown'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="rounds; figures are their medians")
    parser.add_argument("--small-steps", type=int, default=60, help="on the small base; 0: none")
    parser.add_argument("--full-steps", type=int, default=12, help="at SD 1.5's size; 0: none")
    parser.add_argument(
        "--only", default="", help="scenarios whose name has this, e.g. SDXL; default: all"
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="the GPU's scenarios alone, with miniatures: to see anywhere that they run",
    )
    parser.add_argument(
        "--peers",
        type=Path,
        help="folder with checkouts named diffusers and sd-scripts; else they are cloned",
    )
    return parser


def main() -> None:
    """Measure, print, keep."""
    given = _parser().parse_args()
    kept = ROOT / "build" / "bench" / "peers"
    kept.mkdir(parents=True, exist_ok=True)
    checkouts = [
        given.peers.absolute() / name if given.peers else None
        for name in ("diffusers", "sd-scripts")
    ]
    trainers: list[Trainer] = [
        Ours(),
        DiffusersScript(kept, checkouts[0]),
        SdScripts(kept, checkouts[1]),
    ]
    for trainer in trainers:
        trainer.prepare()
    device = _device()
    planned = scenarios(
        kept, small_steps=given.small_steps, full_steps=given.full_steps, tiny=given.tiny
    )
    name = "trainer-tiny.json" if given.tiny else "trainer.json"
    results: list[dict[str, Any]] = []
    for scenario in planned:
        if given.only not in scenario.name:
            continue
        result: dict[str, Any] = {"scenario": scenario.name}
        if scenario.needs_gpu and not _has_gpu():
            result |= {"status": "not run: no GPU"}
        else:
            result |= {"status": RUN_HERE, "device": device}
            with tempfile.TemporaryDirectory(dir=kept) as scratch:
                result |= compare(scenario, trainers, runs=given.runs, scratch=Path(scratch))
        results.append(result)
        document = {
            "device": device,
            "load_average": round(os.getloadavg()[0], 1),
            "results": results,
        }
        # Kept scenario by scenario: a later one that is interrupted takes nothing along.
        (kept.parent / name).write_text(json.dumps(document, indent=2) + "\n")
    show(results)


def _has_gpu() -> bool:
    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
