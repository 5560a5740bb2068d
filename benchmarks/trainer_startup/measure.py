"""Process start to first step, last step to exit, and an upload-only restart, beside an import."""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FLOOR = """
import torch, diffusers, peft
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel
"""
HELP = [sys.executable, "-m", "lora_trainer", "--help"]


def job(folder: Path, sampling_steps: int) -> dict[str, Any]:
    """Ten steps of the quickstart."""
    return {
        "name": "startup",
        "recipe": "sd15",
        "baseModel": {"uri": f"file://{ROOT}/examples/small-base/model"},
        "dataset": {
            "uri": f"file://{ROOT}/examples/quickstart/dataset",
            "triggerWord": "zorp",
            "minFileBytes": 0,
        },
        "optimization": {"steps": 10, "batchSize": 8, "resolution": 64, "learningRate": 1e-3},
        "validation": {"samplingSteps": sampling_steps},
        "output": {"uri": f"file://{folder}/output"},
    }


def timed(command: list[str]) -> tuple[float, float, str]:
    """Run a command; returns when it started and ended (time.time()) and its log."""
    started = time.time()
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LORA_TERMINATION_LOG": os.devnull},
    )
    if answer.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{answer.stderr[-2000:]}")
    return started, time.time(), answer.stderr


def seconds_of(event: str, text: str) -> float:
    """The `seconds=` of an event in the trainer's log."""
    found = re.search(rf" info {event} .*seconds=([0-9.]+)", text)
    if found is None:
        raise SystemExit(f"the log has no {event!r}:\n{text[-2000:]}")
    return float(found.group(1))


def one_round(sampling_steps: int) -> dict[str, float]:
    """Floor, a whole run, an upload-only run."""
    floor_started, floor_ended, _ = timed([sys.executable, "-c", FLOOR])
    help_started, help_ended, _ = timed(HELP)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "job.json"
        path.write_text(json.dumps(job(folder, sampling_steps)))
        workspace = folder / "workspace"
        command = [sys.executable, "-m", "lora_trainer", "run", str(path)]
        command += ["--workspace", str(workspace)]
        started, ended, text = timed(command)
        (workspace / "stages" / "publish.json").unlink()
        shutil.rmtree(folder / "output")
        again_started, again_ended, _ = timed(command)
    return {
        "floor_s": floor_ended - floor_started,
        "help_s": help_ended - help_started,
        "first_step_s": seconds_of("first step", text),
        "last_step_to_exit_s": ended - started - seconds_of("trained", text),
        "upload_only_s": again_ended - again_started,
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sampling-steps", type=int, default=25)
    given = parser.parse_args()
    rounds = [one_round(given.sampling_steps) for _ in range(given.runs)]
    found: dict[str, Any] = {
        key: round(statistics.median(one[key] for one in rounds), 2) for key in rounds[0]
    }
    found["first_step_to_floor"] = round(found["first_step_s"] / found["floor_s"], 2)
    found |= {"runs": given.runs, "sampling_steps": given.sampling_steps}
    found["load_average"] = round(os.getloadavg()[0], 1)
    for name, value in found.items():
        print(f"{name:<22} {value:>8}")
    target = ROOT / "build" / "bench" / "trainer_startup.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
