"""How long nobody leads: leaders are killed or stopped, and the audit log says who wrote when.

    python -m benchmarks.operator.handover --kills 10

A module of its own because the rest measures a leader under load, and this the time without one.
The control plane is real; nothing but the two replicas runs on it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_cluster.light import LightCluster, light_cluster
from lora_operator.leader import LeaseTimes

CRDS = Path(__file__).parents[2] / "crds"
LEASE = "handover-bench"
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
# A standby must have seen the leader's last renewals before that one dies.
SETTLE_SECONDS = 3.0


class Replica:
    """One operator process that competes for the Lease."""

    def __init__(self, cluster: LightCluster, name: str, port: int) -> None:
        self.name = name
        self._ready = f"http://127.0.0.1:{port}/readyz"
        variables = {"KUBECONFIG": str(cluster.kubeconfig), "POD_NAME": name}
        self._process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "lora_operator",
                    "--host=127.0.0.1",
                    f"--metrics-port={port}",
                ),
                *("--namespace=default", "--lease-namespace=default", f"--lease-name={LEASE}"),
            ],
            env={**os.environ, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def is_ready(self) -> bool:
        """Whether its cache is filled, so that it waits for nothing but the Lease."""
        try:
            with urllib.request.urlopen(self._ready, timeout=1) as answer:  # noqa: S310 - http
                return bool(answer.status == 200)
        except OSError:
            return False

    def end(self, *, kindly: bool) -> None:
        """Stop (SIGTERM) or kill it, and wait until it is gone."""
        if kindly:
            self._process.terminate()
        else:
            self._process.kill()
        self._process.wait()


def renewals(cluster: LightCluster) -> Iterator[tuple[datetime, str]]:
    """When who wrote the Lease, oldest first."""
    # What follows the last line's end is being written just now.
    complete, _, _ = cluster.audit_log.read_text().rpartition("\n")
    for line in complete.splitlines():
        entry: dict[str, Any] = json.loads(line)
        about = entry.get("objectRef", {})
        written = entry["verb"] in {"create", "update"} and about.get("resource") == "leases"
        if written and entry["responseStatus"]["code"] < 300 and about.get("name") == LEASE:
            name = entry["userAgent"].rpartition("/")[2]
            yield datetime.fromisoformat(entry["requestReceivedTimestamp"]), name


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something is so; end the benchmark where it never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"never so within {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(POLL_SECONDS)


def wait_for_lead(cluster: LightCluster, replica: Replica) -> None:
    """Wait until a replica has written itself into the Lease."""
    wait_until(
        lambda: any(name == replica.name for _, name in renewals(cluster)),
        f"{replica.name} leads",
    )


def gap(cluster: LightCluster, last: str, following: str) -> float:
    """Seconds from one replica's last write of the Lease to the other's first."""
    written = list(renewals(cluster))
    ended = max(at for at, name in written if name == last)
    begun = min(at for at, name in written if name == following)
    return (begun - ended).total_seconds()


def measure(cluster: LightCluster, *, times: int, kindly: bool, port: int) -> list[float]:
    """Gaps of so many hand-overs, one after the other."""
    kind = "stopped" if kindly else "killed"
    leader = Replica(cluster, f"{kind}-0", port)
    gaps = []
    try:
        wait_for_lead(cluster, leader)
        for number in range(1, times + 1):
            standby = Replica(cluster, f"{kind}-{number}", port + number % 2)
            wait_until(standby.is_ready, f"{standby.name} is ready")
            time.sleep(SETTLE_SECONDS)
            leader.end(kindly=kindly)
            last, leader = leader.name, standby
            wait_for_lead(cluster, leader)
            gaps.append(gap(cluster, last, leader.name))
    finally:
        leader.end(kindly=True)
    return gaps


def main() -> None:
    """Measure both kinds of hand-over and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="hand-overs of each kind")
    parser.add_argument("--port", type=int, default=18_500, help="first of two free ports")
    given = parser.parse_args()
    print(f"Lease of {LeaseTimes().duration:.0f} s; {given.kills} hand-overs of each kind")
    with light_cluster() as cluster:
        kubectl = [str(cluster.binaries / "kubectl"), f"--kubeconfig={cluster.kubeconfig}"]
        subprocess.run([*kubectl, "apply", "-f", str(CRDS)], check=True, capture_output=True)
        for kindly in (False, True):
            gaps = measure(cluster, times=given.kills, kindly=kindly, port=given.port)
            kind = "told to stop" if kindly else "killed"
            print(
                f"{kind}: median {statistics.median(gaps):.1f} s, "
                f"from {min(gaps):.1f} s to {max(gaps):.1f} s"
            )


if __name__ == "__main__":
    main()
