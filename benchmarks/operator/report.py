"""The figures as a table for people and as a picture.

A module of its own because it needs nothing that measures, only what was measured.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl

Object = dict[str, Any]


def table(burst: Object) -> str:
    """One burst, in words."""
    floor = burst["floor"]
    rows = [
        ("", "operator", "floor"),
        ("all Jobs exist", f"{burst['all_jobs_s']:.1f} s", f"{floor['all_jobs_s']:.1f} s"),
        ("rate, as a part of the floor's", f"{burst['rate_to_floor']:.2f}", "1"),
        (
            "all Completed (floor: all written)",
            f"{burst['all_completed_s']:.1f} s",
            f"{floor['all_written_s']:.1f} s",
        ),
        ("reconcile p50", f"{burst['reconcile_p50_ms']:.1f} ms", ""),
        ("reconcile p99", f"{burst['reconcile_p99_ms']:.1f} ms", ""),
        ("CPU", f"{burst['cpu_s']:.1f} s ({burst['cores']:.2f} cores)", ""),
        ("memory, peak", f"{burst['peak_mib']:.0f} MiB", ""),
        ("event loop, worst lag", f"{burst['worst_loop_lag_ms']:.0f} ms", ""),
        *(
            (f"{name} per run", f"{calls:.2f}", "")
            for name, calls in burst["calls_per_run"].items()
        ),
    ]
    lines = [f"{name:<34} {ours:>22} {theirs:>10}" for name, ours, theirs in rows]
    return "\n".join([f"--- {burst['runs']} runs applied at once", *lines])


def plot(bursts: list[Object], target: Path) -> None:
    """Each figure against the number of runs."""
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figures = {
        "all Jobs exist, s": "all_jobs_s",
        "all Completed, s": "all_completed_s",
        "reconcile p99, ms": "reconcile_p99_ms",
        "CPU, s": "cpu_s",
        "memory, MiB": "peak_mib",
        "loop lag, ms": "worst_loop_lag_ms",
    }
    counts = [burst["runs"] for burst in bursts]
    canvas, axes = pyplot.subplots(2, 3, figsize=(12, 7))
    for axis, (title, name) in zip(axes.flat, figures.items(), strict=True):
        axis.plot(counts, [burst[name] for burst in bursts], "o-", label="operator")
        if name in bursts[0]["floor"]:
            axis.plot(counts, [burst["floor"][name] for burst in bursts], "s--", label="floor")
            axis.legend()
        axis.set(title=title, xlabel="runs applied at once", ylim=(0, None), xlim=(0, None))
    canvas.tight_layout()
    canvas.savefig(target)
