"""Where object storage may not be: whoever writes the Secret must not learn a machine's secrets."""

import socket

import pytest

from lora_api.exit_codes import ExitCode
from lora_trainer.errors import StorageError
from lora_trainer.storage.connection import connect


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254:80",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "0251.0376.0251.0376",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b::6464:64c8]",
        "[2002:a9fe:a9fe::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
    ],
)
def test_a_link_local_endpoint_is_bad_input(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    with pytest.raises(StorageError, match="a link-local address") as caught:
        connect("output.uri", "s3://models/anna/")
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    "host",
    [
        "10.96.0.20:9000",
        "minio.storage.svc",
        "169-254.example",
        "1.2",
        "[fd00:ec2::253]",
        "[64:ff9b::10.96.0.20]",
        "[2002:a60:14::1]",
    ],
)
def test_any_other_endpoint_may_be_storage(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    assert connect("output.uri", "s3://models/anna/")


def test_a_name_of_a_link_local_address_is_asked_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{server.getsockname()[1]}")
        # No test may rely on a link-local neighbour, so that the nearest one is said to be it.
        monkeypatch.setattr(socket.socket, "getpeername", lambda _: ("169.254.169.254", 80))
        client = connect("output.uri", "s3://models/anna/")
        with pytest.raises(
            StorageError, match=r"localhost \(169.254.169.254\)', a link-local"
        ) as e:
            client.bucket_exists("models")
        assert e.value.exit_code is ExitCode.BAD_INPUT
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b"", "closed, and nothing was sent"
