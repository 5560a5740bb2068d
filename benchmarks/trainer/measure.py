"""Our trainer and its peers on the same work: speed, start, memory, whole runs, as ratios."""

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

from benchmarks.trainer.scenarios import ROOT, Scenario, prepare_pictures, scenarios
from benchmarks.trainer.trainers import Command, DiffusersScript, Ours, SdScripts, Trainer
from rich.console import Console
from rich.table import Table

PROBE = Path(__file__).parent / "probe"
# Steps at the start that no rate counts: allocators, caches and lazy set-up.
WARM_UP_STEPS = 2
FIGURES = {
    "steps_per_second": "steps/s",
    "first_step_seconds": "start to first step, s",
    "whole_run_seconds": "whole run, s",
    "peak_rss_bytes": "peak memory, MiB",
    "peak_gpu_bytes": "peak GPU memory, MiB",
}


def measured(command: Command, *, steps: int, log: Path, probe: Path) -> dict[str, float]:
    """Run one trainer to its end and read what the probe saw.

    Args:
        command: What to run.
        steps: Optimiser steps that it will do.
        log: Gets its output.
        probe: Gets a line for each of its steps.

    Raises:
        SystemExit: It failed, or did other steps; the end of its log is shown.
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
    started = time.time()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    ended = time.time()
    lines = [line.split() for line in probe.read_text().splitlines()] if probe.exists() else []
    if status or len(lines) != steps:
        raise SystemExit(
            f"{' '.join(command.arguments[:3])}: status {status}, {len(lines)} of {steps} steps\n"
            f"{log.read_text()[-3000:]}"
        )
    stamps = [float(when) for when, _ in lines]
    figures = {
        "steps_per_second": (steps - WARM_UP_STEPS) / (stamps[-1] - stamps[WARM_UP_STEPS - 1]),
        "first_step_seconds": stamps[0] - started,
        "whole_run_seconds": ended - started,
        "peak_rss_bytes": usage.ru_maxrss * 1024.0,
    }
    if int(lines[-1][1]):
        figures["peak_gpu_bytes"] = float(lines[-1][1])
    return figures


def compare(
    scenario: Scenario, trainers: list[Trainer], *, runs: int, scratch: Path
) -> dict[str, dict[str, float]]:
    """All trainers in turn, several times; medians by trainer.

    Args:
        scenario: What to train.
        trainers: Those to compare; each round runs every one of them once.
        runs: Rounds.
        scratch: For pictures, logs and outputs.
    """
    rounds: dict[str, list[dict[str, float]]] = {}
    pictures = prepare_pictures(scratch / "pictures")
    for number in range(1, runs + 1):
        for trainer in trainers:
            if not trainer.fits(scenario):
                continue
            folder = scratch / "run"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            command = trainer.command(scenario, pictures, folder)
            print(f"{scenario.name}: {trainer.name}, round {number} of {runs}", file=sys.stderr)
            figures = measured(
                command,
                steps=scenario.steps,
                log=scratch / f"{trainer.name}.log",
                probe=scratch / "steps",
            )
            rounds.setdefault(trainer.name, []).append(figures)
    return {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in rounds.items()
    }


def ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ours to the best peer, figure by figure; for steps/s above 1 is better, else below."""
    ours = found[Ours.name]
    peers = [figures for name, figures in found.items() if name != Ours.name]
    best = {
        key: (max if key == "steps_per_second" else min)(peer[key] for peer in peers)
        for key in ours
        if peers and all(key in peer for peer in peers)
    }
    return {key: round(ours[key] / value, 2) for key, value in best.items()}


def show(results: list[dict[str, Any]]) -> None:
    """One table per scenario."""
    console = Console()
    for result in results:
        table = Table("", *result["trainers"], "ours / best peer", title=result["scenario"])
        for key, title in FIGURES.items():
            values = [figures.get(key) for figures in result["trainers"].values()]
            if any(value is not None for value in values):
                ratio = result["ratios"].get(key)
                table.add_row(title, *(_cell(key, value) for value in values), f"{ratio}")
        console.print(table)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 2**20:.0f}" if key.endswith("bytes") else f"{value:.2f}"


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="rounds; figures are their medians")
    parser.add_argument("--small-steps", type=int, default=60, help="on the small base; 0: none")
    parser.add_argument("--full-steps", type=int, default=15, help="at SD 1.5's size; 0: none")
    parser.add_argument(
        "--peers",
        type=Path,
        help="folder with checkouts named diffusers and sd-scripts; else they are cloned",
    )
    given = parser.parse_args()
    kept = ROOT / "build" / "bench" / "peers"
    kept.mkdir(parents=True, exist_ok=True)
    checkouts = [
        given.peers / name if given.peers else None for name in ("diffusers", "sd-scripts")
    ]
    trainers: list[Trainer] = [
        Ours(),
        DiffusersScript(kept, checkouts[0]),
        SdScripts(kept, checkouts[1]),
    ]
    for trainer in trainers:
        trainer.prepare()
    results: list[dict[str, Any]] = []
    for scenario in scenarios(kept, small_steps=given.small_steps, full_steps=given.full_steps):
        with tempfile.TemporaryDirectory(dir=kept) as name:
            found = compare(scenario, trainers, runs=given.runs, scratch=Path(name))
        results.append({"scenario": scenario.name, "trainers": found, "ratios": ratios(found)})
    show(results)
    target = ROOT / "build" / "bench" / "trainer.json"
    device = "cuda" if any("peak_gpu_bytes" in r["trainers"][Ours.name] for r in results) else "cpu"
    document = {
        "device": device,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "runs": given.runs,
        "results": results,
    }
    target.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
