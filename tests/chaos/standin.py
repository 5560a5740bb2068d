"""A scripted stand-in for the trainer: speaks its whole contract and trains nothing.

A script of its own, with the standard library alone, because it is the only file of its image: it
starts in a tenth of a second, so that hundreds of kills fit into minutes. Job document, workspace,
checkpoints, /progress, SIGTERM, exit codes, upload and termination message are as the real one's.
"""
# ruff: noqa: E402

import os
import signal

INTERRUPTED = 143
# First of all, because process 1 of a container ignores what it does not handle, and on a machine
# that is out of breath the imports below take longer than it takes to be deleted.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(INTERRUPTED))

import fcntl
import hashlib
import hmac
import json
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

STEP_SECONDS = 0.1
UPLOAD_TRIES = 3
CRASHED, TRANSIENT = 1, 75
# What somebody from outside sends to have it crash: a kill of process 1 of a container would look
# like too little memory, and every other signal is ignored there unless it is waited for.
CRASH_SIGNAL = signal.SIGUSR2


class Trainer:
    """One attempt."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = json.loads(os.environ["LORA_JOB"])
        self.total: int = self.job["optimization"]["steps"]
        self.workspace = Path(os.environ["LORA_WORKSPACE"])
        self.stage = "Plan"
        self.step = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """From the last checkpoint to the stored artifact."""
        self.serve()
        self.hold_workspace()
        self.stage, self.step = "Train", self.checkpoint()
        while self.step < self.total:
            time.sleep(STEP_SECONDS)
            self.step += 1
            if self.step % 10 == 0:
                self.save()
        self.save()
        self.stage = "Publish"
        name = self.job["name"]
        content = f"the LoRA of {name}, {self.total} steps".encode()
        uri = self.job["output"]["uri"].rstrip("/") + f"/{name}.safetensors"
        self.store(uri, content)
        self.stage = "Done"
        artifact = {
            "uri": uri,
            "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
            "sizeBytes": len(content),
            "format": "kohya",
        }
        self.end(0, "Succeeded", "Completed", "Trained and stored.", artifact=artifact)

    def hold_workspace(self) -> None:
        """Tell the world if another pod of this run lives in the same workspace."""
        self.lock = (self.workspace / "lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            uri = self.job["output"]["uri"].rstrip("/") + f"/doubled-{time.time()}"
            self.store(uri, b"two pods at once")
            fcntl.flock(self.lock, fcntl.LOCK_EX)

    def checkpoint(self) -> int:
        """The step of the last checkpoint."""
        try:
            return int((self.workspace / "step").read_text())
        except FileNotFoundError:
            return 0

    def save(self) -> None:
        """A checkpoint that is whole or not there."""
        fresh = self.workspace / "step.new"
        fresh.write_text(str(self.step))
        fresh.replace(self.workspace / "step")

    def end(self, code: int, outcome: str, reason: str, message: str, **more: object) -> NoReturn:
        """Leave the termination message and go."""
        result = {
            **{"outcome": outcome, "reason": reason, "message": message, **more},
            **{"retryable": code != 0, "step": self.step, "totalSteps": self.total},
        }
        Path("/dev/termination-log").write_text(json.dumps(result))
        sys.stdout.flush()
        os._exit(code)

    def interrupt(self, *_: object) -> None:
        """SIGTERM: a checkpoint, then out."""
        self.save()
        self.end(INTERRUPTED, "Interrupted", "Interrupted", "A checkpoint was saved.")

    def crash(self, *_: object) -> None:
        """As a fault nobody foresaw: no word, no checkpoint."""
        os._exit(CRASHED)

    def progress(self) -> bytes:
        """What /progress says."""
        told = {
            **{"stage": self.stage, "step": self.step, "totalSteps": self.total, "loss": 0.1},
            **{"stepsPerSecond": 1 / STEP_SECONDS, "updatedAt": datetime.now(UTC).isoformat()},
        }
        return json.dumps(told).encode()

    def serve(self) -> None:
        """Answer on the contract's port."""
        trainer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = trainer.progress() if self.path == "/progress" else b"ok\n"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("0.0.0.0", 8080), Handler)  # noqa: S104
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def store(self, uri: str, content: bytes) -> None:
        """Put an object; a storage that stays away is a transient failure."""
        for turn in range(UPLOAD_TRIES):
            try:
                put(uri, content)
                return
            except OSError as error:
                print(f"upload failed: {error}", flush=True)
                time.sleep(1 + turn)
        self.end(TRANSIENT, "Failed", "StorageUnavailable", f"{uri} could not be stored.")


def put(uri: str, content: bytes) -> None:
    """PUT with AWS Signature Version 4 (docs.aws.amazon.com, "Signing AWS API requests")."""
    endpoint = os.environ["AWS_ENDPOINT_URL"].rstrip("/")
    region = os.environ.get("AWS_REGION", "us-east-1")
    host = urllib.parse.urlsplit(endpoint).netloc
    path = urllib.parse.quote("/" + uri.removeprefix("s3://"))
    now = datetime.now(UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(content).hexdigest()
    signed = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request_text = f"PUT\n{path}\n\n{lines}\n{names}\n{digest}"
    scope = f"{day}/{region}/s3/aws4_request"
    hashed = hashlib.sha256(request_text.encode()).hexdigest()
    key = b"AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"{os.environ['AWS_ACCESS_KEY_ID']}/{scope}"
    headers = {
        **signed,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={names},"
        f"Signature={signature}",
    }
    request = urllib.request.Request(endpoint + path, content, headers, method="PUT")  # noqa: S310
    with urllib.request.urlopen(request, timeout=10):  # noqa: S310
        pass


def main() -> None:
    """Train, so to speak."""
    trainer = Trainer()
    signal.signal(signal.SIGTERM, trainer.interrupt)
    signal.signal(CRASH_SIGNAL, trainer.crash)
    trainer.run()


if __name__ == "__main__":
    main()
