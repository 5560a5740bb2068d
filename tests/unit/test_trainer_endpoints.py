"""Where object storage may not be: whoever writes the Secret must not learn a machine's secrets."""

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
    ],
)
def test_a_link_local_endpoint_is_bad_input(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    with pytest.raises(StorageError, match="a link-local address") as caught:
        connect("output.uri", "s3://models/anna/")
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize("host", ["10.96.0.20:9000", "minio.storage.svc", "169-254.example", "1.2"])
def test_any_other_endpoint_may_be_storage(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    assert connect("output.uri", "s3://models/anna/")
