"""Certificates: checked by a real TLS handshake, as the components will."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from lora_cluster.pki import Identity, issue_all
from lora_cluster.probes import admin_context

SERVER = Identity(file="apiserver", common_name="kube-apiserver", names=("127.0.0.1", "kubernetes"))
ADMIN = Identity(file="admin", common_name="admin", organization="system:masters")


def handshake(pki: Path, *, server_name: str) -> dict[str, object]:
    """What the server learns of the client that connects as administrator."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
    context.verify_mode = ssl.CERT_REQUIRED
    seen: dict[str, object] = {}

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, context.wrap_socket(connection, server_side=True) as secure:
            seen.update(secure.getpeercert() or {})
            secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with (
            socket.create_connection(listener.getsockname()) as plain,
            admin_context(pki).wrap_socket(plain, server_hostname=server_name) as secure,
        ):
            secure.sendall(b"x")
        thread.join(timeout=10)
    return seen


@pytest.mark.parametrize("name", ["127.0.0.1", "kubernetes"])
def test_the_administrator_is_known_by_group_under_every_server_name(
    tmp_path: Path, name: str
) -> None:
    issue_all(tmp_path, [SERVER, ADMIN])
    seen = handshake(tmp_path, server_name=name)
    assert (("organizationName", "system:masters"),) in seen["subject"]  # type: ignore[operator]


def test_issuing_again_keeps_what_is_there(tmp_path: Path) -> None:
    issue_all(tmp_path, [SERVER, ADMIN])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    issue_all(tmp_path, [SERVER, ADMIN])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    issue_all(tmp_path, [SERVER, ADMIN])
    for key in [tmp_path / "ca.key", tmp_path / "admin.key", tmp_path / "sa.key"]:
        assert key.stat().st_mode & 0o077 == 0, key.name
