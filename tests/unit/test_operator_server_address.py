"""Where the operator looks for the API server from inside a pod."""

import pytest

from lora_operator.kube.credentials import _server_address


@pytest.mark.parametrize(
    ("sentence", "environment", "address"),
    [
        (
            "the kubelet's variables, so that DNS need not work",
            {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT_HTTPS": "6443"},
            "https://10.96.0.1:6443",
        ),
        ("the usual port", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443"),
        ("an IPv6 address", {"KUBERNETES_SERVICE_HOST": "fd00::1"}, "https://[fd00::1]:443"),
        ("the DNS name where they are missing", {}, "https://kubernetes.default.svc"),
    ],
)
def test_the_api_server_is_found(sentence: str, environment: dict[str, str], address: str) -> None:
    assert _server_address(environment) == address, sentence
