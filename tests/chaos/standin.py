"""A scripted stand-in for the trainer: speaks its whole contract and trains nothing.

A script of its own, with the standard library alone, because it is the only file of its image: it
starts in a tenth of a second, so that hundreds of kills fit into minutes. Job document, workspace
and its copy in the bucket where the pod takes it along, checkpoints, /progress, SIGTERM, exit
codes, upload and termination message are as the real one's.
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
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

T = TypeVar("T")
STEP_SECONDS = 0.1
STEPS_BETWEEN_CHECKPOINTS = 10
STORAGE_TRIES = 3
CRASHED, TRANSIENT, NOT_STORED = 1, 75, 76
# What somebody from outside sends to have it crash: a kill of process 1 of a container would look
# like too little memory, and every other signal is ignored there unless it is waited for.
CRASH_SIGNAL = signal.SIGUSR2


class Trainer:
    """One attempt."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = json.loads(os.environ["LORA_JOB"])
        self.total: int = self.job["optimization"]["steps"]
        self.workspace = Path(os.environ["LORA_WORKSPACE"])
        self.output: str = self.job["output"]["uri"].rstrip("/")
        # Where the pod takes its workspace along, what must survive it lies beside the output.
        self.is_ephemeral: bool = self.job["workspace"]["ephemeral"]
        self.copy = f"{self.output}/.workspace/{self.job['runId']}/checkpoint"
        self.stage = "Plan"
        self.step = 0
        self.began: list[int] = []

    def run(self) -> None:
        """From the last checkpoint to the stored artifact."""
        self.serve()
        self.hold_workspace()
        if not (self.is_ephemeral and self.is_stored()):
            self.restore()
            self.train()
            self.publish()
        self.forget_copy()
        self.stage = "Done"
        uri, content = self.model()
        artifact = {
            "uri": uri,
            "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
            "sizeBytes": len(content),
            "format": "kohya",
        }
        self.end(0, "Succeeded", "Completed", "Trained and stored.", artifact=artifact)

    def publish_partial(self) -> None:
        """What a cancelled run had trained by its last checkpoint, as far as there is one."""
        self.hold_workspace()
        self.restore()
        said, more = "There is no checkpoint.", {}
        if self.step:
            uri, content = f"{self.output}/partial/model.safetensors", str(self.step).encode()
            self.insist(lambda: put(uri, content), code=NOT_STORED)
            digest = "sha256:" + hashlib.sha256(content).hexdigest()
            said = f"The LoRA as of step {self.step} is stored."
            more = {"uri": uri, "digest": digest, "sizeBytes": len(content), "format": "kohya"}
        self.forget_copy()
        self.end(0, "Succeeded", "Completed", said, **({"artifact": more} if more else {}))

    def remove_copy(self) -> None:
        """What the copy of a workspace leaves in the bucket, however the run ended."""
        self.insist(lambda: delete(self.copy), code=TRANSIENT)
        self.end(0, "Succeeded", "Completed", "The copy is removed.")

    def hold_workspace(self) -> None:
        """Tell the world if another pod of this run lives in the same workspace."""
        self.lock = (self.workspace / "lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            uri = f"{self.output}/doubled-{time.time()}"
            self.insist(lambda: put(uri, b"two pods at once"), code=TRANSIENT)
            fcntl.flock(self.lock, fcntl.LOCK_EX)

    def is_stored(self) -> bool:
        """Whether an earlier attempt, whose workspace is gone, has done it all."""
        report = self.insist(lambda: get(f"{self.output}/report.json"), code=TRANSIENT)
        if report is None:
            return False
        self.step = self.total
        return True

    def restore(self) -> None:
        """Begin at the last checkpoint, where there is one."""
        checkpoint = self.workspace / "checkpoint"
        content = checkpoint.read_bytes() if checkpoint.exists() else None
        if content is None and self.is_ephemeral:
            content = self.insist(lambda: get(self.copy), code=TRANSIENT)
        if content is not None:
            known = json.loads(content)
            self.step, self.began = known["step"], known["began"]
        self.began.append(self.step)

    def train(self) -> None:
        """Count to the last step."""
        self.stage = "Train"
        while self.step < self.total:
            time.sleep(STEP_SECONDS)
            self.step += 1
            if self.step % STEPS_BETWEEN_CHECKPOINTS == 0:
                self.save()
        self.save()

    def save(self) -> None:
        """A checkpoint that is whole or not there."""
        content = json.dumps({"step": self.step, "began": self.began}).encode()
        fresh = self.workspace / "checkpoint.new"
        fresh.write_bytes(content)
        fresh.replace(self.workspace / "checkpoint")
        if self.is_ephemeral:
            # As the real one: training goes on where the copy has to wait for its storage.
            self.try_often(lambda: put(self.copy, content))

    def publish(self) -> None:
        """Store the artifact, then the report: who finds the report finds all of it."""
        self.stage = "Publish"
        uri, content = self.model()
        report = json.dumps({"began": self.began}).encode()
        self.insist(lambda: put(uri, content), code=NOT_STORED)
        self.insist(lambda: put(f"{self.output}/report.json", report), code=NOT_STORED)

    def model(self) -> tuple[str, bytes]:
        """Where the LoRA goes, and what there is of it."""
        name = self.job["name"]
        content = f"the LoRA of {name}, {self.total} steps".encode()
        return f"{self.output}/{name}.safetensors", content

    def forget_copy(self) -> None:
        """Leave nothing beside the output."""
        if self.is_ephemeral:
            self.try_often(lambda: delete(self.copy))

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
        if self.began:
            # Before that nothing was read yet, and a checkpoint would undo the last one.
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

    def insist(self, do: Callable[[], T], *, code: int) -> T:
        """Do something with the storage; one that stays away ends the attempt with that code."""
        done, error = self.try_often(do)
        if error is not None:
            self.end(code, "Failed", "StorageUnavailable", f"The storage does not answer: {error}.")
        return cast("T", done)

    def try_often(self, do: Callable[[], T]) -> tuple[T | None, OSError | None]:
        """What it answered in the end, or why it did not."""
        failed = OSError()
        for turn in range(STORAGE_TRIES):
            try:
                return do(), None
            except OSError as error:
                print(f"storage: {error}", flush=True)
                failed = error
                time.sleep(1 + turn)
        return None, failed


def put(uri: str, content: bytes) -> None:
    """Store an object."""
    request("PUT", uri, content)


def get(uri: str) -> bytes | None:
    """Read an object, or find that there is none."""
    try:
        return request("GET", uri)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.NOT_FOUND:
            raise
        return None


def delete(uri: str) -> None:
    """Delete an object; that there is none is as good."""
    request("DELETE", uri)


def request(method: str, uri: str, content: bytes = b"") -> bytes:
    """One request, signed (docs.aws.amazon.com, "Signature Version 4 for API requests")."""
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
    request_text = f"{method}\n{path}\n\n{lines}\n{names}\n{digest}"
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
    made = urllib.request.Request(  # noqa: S310 - the endpoint is the test's own
        endpoint + path, content or None, headers, method=method
    )
    with urllib.request.urlopen(made, timeout=10) as answer:  # noqa: S310
        body: bytes = answer.read()
        return body


def main() -> None:
    """Train, so to speak."""
    trainer = Trainer()
    signal.signal(signal.SIGTERM, trainer.interrupt)
    signal.signal(CRASH_SIGNAL, trainer.crash)
    command = sys.argv[1] if len(sys.argv) > 1 else "run"
    {"publish-partial": trainer.publish_partial, "remove-copy": trainer.remove_copy}.get(
        command, trainer.run
    )()


if __name__ == "__main__":
    main()
