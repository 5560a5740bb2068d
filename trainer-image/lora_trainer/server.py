"""/progress, /metrics and /healthz over HTTP.

A module of its own because it faces other machines: what it accepts is bounded (connections,
time, size), and a fault here must never reach the training.
"""

import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any

from lora_api.job import ServerSettings
from lora_trainer import __version__, log
from lora_trainer.progress import ProgressBoard

_MAX_CONNECTIONS = 16
_TIMEOUT_SECONDS = 5.0


class ProgressServer:
    """Serves a progress board from a few daemon threads.

    Args:
        board: What is served.
        settings: Where; port 0 in the job document means not at all, which is the caller's to see.
    """

    def __init__(self, board: ProgressBoard, settings: ServerSettings) -> None:
        self._http = _BoundedServer((settings.host, settings.port), _Handler)
        self._http.board = board
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True
        )

    @property
    def port(self) -> int:
        """TCP port that it listens on."""
        return int(self._http.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and close the socket."""
        self._http.shutdown()
        self._http.server_close()


def start_server(board: ProgressBoard, settings: ServerSettings) -> ProgressServer | None:
    """Start the server that the job asks for.

    A port that is taken costs the run its live progress, not its life.

    Args:
        board: What is served.
        settings: Where; port 0 serves nothing.

    Returns:
        The running server, or None.
    """
    if settings.port == 0:
        return None
    try:
        server = ProgressServer(board, settings)
    except OSError as error:
        log.warning("progress is not served", host=settings.host, port=settings.port, error=error)
        return None
    server.start()
    log.info("serving progress", host=settings.host, port=server.port)
    return server


class _BoundedServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    board: ProgressBoard

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)  # full: the asker tries again, the training goes on
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket, client_address: Any) -> None:  # type: ignore[override]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Drop a broken connection without a traceback in the run's log."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_SECONDS
    server_version = f"lora-trainer/{__version__}"
    sys_version = ""
    server: _BoundedServer

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/progress":
            document = self.server.board.snapshot().model_dump_json(by_alias=True)
            self._answer(200, "application/json", document.encode())
        elif path == "/metrics":
            self._answer(200, *render_metrics(self.server.board))
        elif path == "/healthz":
            self._answer(200, "text/plain; charset=utf-8", b"ok\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", b"/progress /metrics /healthz\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a poll every few seconds is no event."""

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _BoardCollector:
    """Reads the board when it is scraped, so that nothing is counted between scrapes."""

    def __init__(self, board: ProgressBoard) -> None:
        self._board = board

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import GaugeMetricFamily, StateSetMetricFamily

        from lora_api.progress import Stage

        progress = self._board.snapshot()
        gauges = [
            ("step", "Optimiser steps done.", progress.step),
            ("total_steps", "Optimiser steps in all.", progress.total_steps),
            ("stage_percent", "How much of the present stage is done.", progress.stage_percent),
            ("percent", "How much of the whole run is done.", progress.percent),
            ("epoch", "Pass over the training pictures, from 1.", progress.epoch),
            ("loss", "Training loss, smoothed over about 20 steps.", progress.loss),
            ("learning_rate", "Learning rate of the last step.", progress.learning_rate),
            ("steps_per_second", "Speed in the steady state.", progress.steps_per_second),
            ("eta_seconds", "Seconds until the last step.", progress.eta_seconds),
            ("gpu_peak_bytes", "Most GPU memory held so far.", progress.gpu_peak_bytes),
            (
                "gpu_utilization_percent",
                "Share of the last second in which the GPU was busy.",
                progress.gpu_utilization_percent,
            ),
        ]
        for name, text, value in gauges:
            if value is not None:
                yield GaugeMetricFamily(f"lora_trainer_{name}", text, value=float(value))
        yield StateSetMetricFamily(
            "lora_trainer_stage",
            "The stage that the run is in.",
            value={stage.value: stage is progress.stage for stage in Stage},
        )


def render_metrics(board: ProgressBoard) -> tuple[str, bytes]:
    """The board in Prometheus' text format.

    Args:
        board: What is rendered.

    Returns:
        Content type and body.
    """
    # Imported on the first scrape: it is not on the way to the first step.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_BoardCollector(board))
    return CONTENT_TYPE_LATEST, generate_latest(registry)
