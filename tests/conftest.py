"""Fixtures that tests of several kinds share; objects are built in builders.py."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from lora_cluster.light import LightCluster
from lora_cluster.light import light_cluster as start_light_cluster

# Two busy cores make any time limit per example a coin toss.
settings.register_profile("here", deadline=None, max_examples=60)
settings.load_profile("here")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def light_cluster() -> Iterator[LightCluster]:
    """An etcd and an API server with our CRDs, shared by all tests of the session."""
    with start_light_cluster() as cluster:
        subprocess.run(
            [cluster.binaries / "kubectl", "apply", "-f", ROOT / "crds"],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            check=True,
            capture_output=True,
        )
        subprocess.run(
            [
                cluster.binaries / "kubectl",
                "wait",
                "--for=condition=Established",
                "crd/loratrainings.loratraining.dev",
                "--timeout=30s",
            ],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            check=True,
            capture_output=True,
        )
        yield cluster
