"""A real S3 server (versitygw) on a loopback port, with a strong and a weak account."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio

from lora_cluster.builds import ensure_binaries

ROOT = ("root-access", "root-secret-key")
READER = ("reader-access", "reader-secret-key")


@dataclass(frozen=True)
class S3Server:
    """A running server; `bases`, `datasets` and `models` are its buckets."""

    endpoint: str
    client: Minio

    def environment(self, account: tuple[str, str] = ROOT) -> dict[str, str]:
        """Variables that give access to it."""
        return {
            "AWS_ACCESS_KEY_ID": account[0],
            "AWS_SECRET_ACCESS_KEY": account[1],
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def upload(self, folder: Path, bucket: str, prefix: str) -> str:
        """Put a folder's files under a prefix; returns its URI."""
        for path in folder.rglob("*"):
            if path.is_file():
                name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                self.client.fput_object(bucket, name, str(path))
        return f"s3://{bucket}/{prefix}"

    def names(self, bucket: str, prefix: str) -> set[str]:
        found = self.client.list_objects(bucket, prefix=f"{prefix}/", recursive=True)
        return {(item.object_name or "").removeprefix(f"{prefix}/") for item in found}

    def content(self, bucket: str, name: str) -> bytes:
        response = self.client.get_object(bucket, name)
        try:
            return bytes(response.read())
        finally:
            response.close()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server in `folder` until the block ends."""
    for name in ("data", "accounts", "metadata"):
        (folder / name).mkdir()
    program = ensure_binaries() / "versitygw"
    port = _free_port()
    process = subprocess.Popen(
        [
            *(str(program), "--port", f"127.0.0.1:{port}", "--iam-dir", str(folder / "accounts")),
            *("--quiet", "posix", "--sidecar", str(folder / "metadata"), str(folder / "data")),
        ],
        env={**os.environ, "ROOT_ACCESS_KEY": ROOT[0], "ROOT_SECRET_KEY": ROOT[1]},
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(port, process, folder / "log")
        endpoint = f"http://127.0.0.1:{port}"
        client = Minio(f"127.0.0.1:{port}", *ROOT, secure=False, region="us-east-1")
        for bucket in ("bases", "datasets", "models"):
            client.make_bucket(bucket)
        _add_reader(str(program), endpoint)
        for bucket in ("bases", "datasets", "models"):
            client.set_bucket_policy(bucket, _READ_ONLY % (READER[0], bucket, bucket))
        yield S3Server(endpoint, client)
    finally:
        process.terminate()
        process.wait(10)


_READ_ONLY = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": ["%s"]}, '
    '"Action": ["s3:GetObject", "s3:ListBucket"], '
    '"Resource": ["arn:aws:s3:::%s", "arn:aws:s3:::%s/*"]}]}'
)


def _add_reader(program: str, endpoint: str) -> None:
    account = ["--access", READER[0], "--secret", READER[1], "--role", "user"]
    subprocess.run(
        [program, "admin", "create-user", *account],
        env={
            **os.environ,
            "ADMIN_ACCESS_KEY": ROOT[0],
            "ADMIN_SECRET_KEY": ROOT[1],
            "ADMIN_ENDPOINT_URL": endpoint,
        },
        check=True,
        capture_output=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            urllib3.PoolManager(retries=False).request("GET", f"http://127.0.0.1:{port}/")
        except urllib3.exceptions.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no answer from the S3 server: {log.read_text()}")
