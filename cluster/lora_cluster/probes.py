"""Does a component answer? Blocking, one try, short; whoever asks decides how often."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 2.0


def admin_context(pki: Path) -> ssl.SSLContext:
    """TLS as the cluster's administrator; loading it costs milliseconds, so keep it."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    return context


def answers(probe: str, *, context: ssl.SSLContext | None = None) -> bool:
    """Try `tcp:HOST:PORT`, `unix:PATH` or `https://...` once.

    Args:
        probe: What to try; empty is always true.
        context: TLS settings for `https` probes.
    """
    kind, _, rest = probe.partition(":")
    try:
        if kind == "tcp":
            host, _, port = rest.rpartition(":")
            socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS).close()
        elif kind == "unix":
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(TIMEOUT_SECONDS)
                client.connect(rest)
        elif kind == "https":
            with urllib.request.urlopen(probe, timeout=TIMEOUT_SECONDS, context=context):  # noqa: S310
                pass
    except (OSError, urllib.error.URLError, ssl.SSLError):
        return False
    return True
