"""How long the local cluster takes to come up and to go, with everything built already.

Stops and starts the cluster several times; the ratio sets `up` beside the bare start of its slowest
single part, an API server with its etcd, measured in the same run.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lora_cluster.light import light_cluster


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def cluster(*arguments: str) -> None:
    """One `lora-cluster` command, quiet unless it fails."""
    command = [sys.executable, "-m", "lora_cluster", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def floor() -> None:
    """Etcd and the API server alone, ready to answer, and stopped again."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(light_cluster())


def main() -> None:
    """Prints medians and the ratio, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/bench/cluster_up.json"))
    arguments = parser.parse_args()
    cluster("up")
    figures: dict[str, list[float]] = {"down": [], "up": [], "floor": []}
    for _ in range(arguments.runs):
        figures["down"].append(seconds(lambda: cluster("down")))
        figures["floor"].append(seconds(floor))
        figures["up"].append(seconds(lambda: cluster("up")))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    result = {"runs": figures, "medians": medians, "up_to_floor": medians["up"] / medians["floor"]}
    for name, values in figures.items():
        print(f"{name:<6} median {medians[name]:6.2f} s   {[round(value, 2) for value in values]}")
    print(f"up / floor  {result['up_to_floor']:.2f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
