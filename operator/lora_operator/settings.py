"""What a person can set, with every default in one place.

A module of its own so that nothing else reads environment variables or the command line.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lora_api.policy import GpuSettings

DEFAULT_TRAINER_IMAGE = "lora-trainer:latest"


class ProgressRoute(StrEnum):
    """How running trainers are asked for their progress."""

    AUTO = "auto"
    DIRECT = "direct"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one operator process."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty for all."""

    trainer_image: str = DEFAULT_TRAINER_IMAGE
    """Image of runs that name none."""

    gpu: GpuSettings = field(default_factory=GpuSettings)
    """How GPUs and the node labels that tell of them are called, where no policy says so."""

    progress_via: ProgressRoute = ProgressRoute.AUTO
    """Straight to the pod's address, or through the API server."""

    host: str = "0.0.0.0"  # noqa: S104 - the kubelet's probes and Prometheus come from outside
    """Address of the HTTP server."""

    port: int = 8081
    """Port of /metrics, /healthz and /readyz."""

    webhook_certificate: Path | None = None
    """Folder with tls.crt and tls.key of the admission webhook; without it there is none."""

    webhook_port: int = 9443
    """Port of the admission webhook."""

    leader_elect: bool = True
    """Whether to hold the Lease before acting."""

    lease_name: str = "lora-operator"
    """Name of the Lease."""

    lease_namespace: str | None = None
    """Namespace of the Lease; our own by default."""

    identity: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """Name of this replica, unique among them."""

    workers: int = 16
    """Runs that are looked at at once."""

    log_format: str = "text"
    """text or json."""

    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""


def default_of(name: str, environment: Mapping[str, str], fallback: str) -> str:
    """The environment's value of LORA_OPERATOR_<NAME>, or the fallback."""
    return environment.get(f"LORA_OPERATOR_{name.upper()}", fallback)
