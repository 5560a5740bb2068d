"""A connection to an S3 server, as the standard AWS_* environment variables describe it.

A module of its own because it owns the credentials: it reads them here, and never shows them.
"""

import ipaddress
import os
import re
import socket
from urllib.parse import SplitResult, urlsplit

import certifi
import urllib3
from minio import Minio
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_trainer.errors import StorageError

# With 4 tries and 7 s of waiting between them, a dead endpoint is called unreachable after 27 s at
# most, one that accepts and never answers after 87 s.
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 20.0
# Where clouds keep a machine's credentials, other than at link-local addresses: AWS by IPv6,
# Alibaba Cloud, Azure's WireServer; as their documentation names them.
METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")
)
# RFC 6052: its last 32 bits are an IPv4 address.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def connect(field: str, uri: str) -> Minio:
    """A client; nothing is asked of the server yet.

    Args:
        field: The job's field that names the storage.
        uri: Its URI, for messages.

    Raises:
        StorageError: CredentialsMissing, or StorageUnreachable for an endpoint that is no URL.
    """
    access_key = os.environ.get("AWS_ACCESS_KEY_ID", "").strip()
    secret_key = os.environ.get("AWS_SECRET_ACCESS_KEY", "").strip()
    missing = [
        name
        for name, value in (
            ("AWS_ACCESS_KEY_ID", access_key),
            ("AWS_SECRET_ACCESS_KEY", secret_key),
        )
        if not value
    ]
    if missing:
        raise StorageError(
            Reason.CREDENTIALS_MISSING,
            f"{field} is {uri}, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set; put the standard AWS_* variables "
            "into the credentials Secret or the environment",
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    parts = _address(endpoint or f"https://s3.{region}.amazonaws.com")
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
        maxsize=16,
        retries=False,
        cert_reqs="CERT_REQUIRED",
        ca_certs=_certificates(),
    )
    # By a name, an address is known only once it is connected to, and then nothing was sent yet.
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return Minio(
        parts.netloc,
        access_key=access_key,
        secret_key=secret_key,
        session_token=os.environ.get("AWS_SESSION_TOKEN") or None,
        secure=parts.scheme == "https",
        region=region,
        http_client=pool,
    )


def _address(endpoint: str) -> SplitResult:
    try:
        parts = urlsplit(endpoint)
        port = parts.port  # looked at only here, and only now found to be none
    except ValueError:
        parts, port = urlsplit(""), None
    known = parts.scheme in {"http", "https"} and parts.hostname and port != 0
    if not known or parts.path.strip("/") or "@" in parts.netloc:
        shown = re.sub(".*@", "...@", endpoint)  # a password may stand there
        raise StorageError(
            Reason.STORAGE_UNREACHABLE,
            f"AWS_ENDPOINT_URL is {shown!r}; it must be http(s)://host[:port] without a path or "
            "credentials",
            exit_code=ExitCode.BAD_INPUT,
        )
    if _is_link_local(parts.hostname or ""):
        raise _link_local(endpoint)
    return parts


class _HttpConnection(HTTPConnection):
    """A connection that asks nothing of whoever has a link-local address."""

    def connect(self) -> None:
        super().connect()
        _check_peer(self)


class _HttpsConnection(HTTPSConnection):
    """The same with TLS."""

    def connect(self) -> None:
        super().connect()
        _check_peer(self)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def _check_peer(connection: HTTPConnection) -> None:
    address = connection.sock.getpeername()[0] if connection.sock is not None else ""
    if _is_link_local(address):
        connection.close()
        raise _link_local(f"{connection.host} ({address})")


def _link_local(endpoint: str) -> StorageError:
    return StorageError(
        Reason.STORAGE_UNREACHABLE,
        f"AWS_ENDPOINT_URL is {endpoint!r}, a link-local address or one of a cloud's own: clouds "
        "keep the credentials of their machines there, and no object storage",
        exit_code=ExitCode.BAD_INPUT,
    )


def _is_link_local(host: str) -> bool:
    """Whether a host is link-local or a cloud's metadata, in any spelling that connects to it."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            # 0xa9fea9fe, 2852039166 and 169.254.43518 are the same to the resolver.
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return False
    if isinstance(address, ipaddress.IPv6Address):
        address = _wrapped(address) or address
    return address.is_link_local or address in METADATA


def _wrapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, by 6to4 or by NAT64."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _certificates() -> str:
    variables = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")
    return next((os.environ[name] for name in variables if os.environ.get(name)), certifi.where())
