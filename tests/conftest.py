"""Fixtures that tests of several kinds share; objects are built in builders.py."""

import contextlib
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


@contextlib.contextmanager
def start_with_crds(*, controller_manager: bool = False) -> Iterator[LightCluster]:
    """A fresh API server that serves our kinds."""
    with start_light_cluster(controller_manager=controller_manager) as cluster:
        kubectl = [str(cluster.binaries / "kubectl"), f"--kubeconfig={cluster.kubeconfig}"]
        for arguments in (
            ["apply", "-f", str(ROOT / "crds")],
            ["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"],
        ):
            subprocess.run([*kubectl, *arguments], check=True, capture_output=True)
        yield cluster


@pytest.fixture(scope="session")
def light_cluster() -> Iterator[LightCluster]:
    """An etcd and an API server with our CRDs, shared by all tests of the session."""
    with start_with_crds() as cluster:
        yield cluster
