"""The other end of the supervisor's socket: one JSON line there, one JSON line back."""

from __future__ import annotations

import json
import socket
from typing import Any

from lora_cluster.errors import ClusterError
from lora_cluster.layout import Layout

TIMEOUT_SECONDS = 30.0


def ask(layout: Layout, request: dict[str, Any]) -> dict[str, Any]:
    """Send one command to the cluster's supervisor and return its answer.

    Raises:
        ClusterError: Nobody answers, or the supervisor refused.
    """
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_SECONDS)
            client.connect(str(layout.control_socket))
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("r", encoding="utf-8") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise ClusterError(
            "NotRunning",
            f"the cluster {layout.name!r} does not answer at {layout.control_socket} ({error}); "
            "run `up` to start it.",
        ) from error
    if "error" in answer:
        raise ClusterError("Refused", str(answer["error"]))
    return answer
