"""How the API server is reached and who we are there: a pod's ServiceAccount or a kubeconfig.

A module of its own because our client, the watches and kopf share it, and because a bound token in
a pod is replaced on disk every hour: it has to be read again, not remembered.
"""

import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import kopf

from lora_operator.errors import CredentialsError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REREAD_SECONDS = 60.0
PLUGIN_RERUN_SECONDS = 300.0

Middleware = Callable[
    [aiohttp.ClientRequest, aiohttp.ClientHandlerType], Awaitable[aiohttp.ClientResponse]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the API server is and how to prove who we are; makes sessions that do so."""

    server: str
    """Base URL without a trailing slash."""

    namespace: str
    """Our own namespace, in which the Lease lives."""

    in_cluster: bool
    """Whether we run in a pod, and so can reach other pods."""

    ssl_context: ssl.SSLContext
    """CA and client certificate."""

    headers: Callable[[], dict[str, str]]
    """Authorization header as it is valid now."""

    user_agent: str = "lora-operator"
    """How the API server's audit log names us."""

    def session(self, *middlewares: Middleware) -> aiohttp.ClientSession:
        """A new HTTP session; each request carries credentials that are valid at that time.

        Args:
            middlewares: Further aiohttp client middlewares, for example to count requests.
        """

        async def authorise(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            request.headers.update(self.headers())
            return await handler(request)

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.ssl_context),
            middlewares=(*middlewares, authorise),
            headers={"User-Agent": self.user_agent},
        )


def connect() -> Connection:
    """Find the API server: the pod's ServiceAccount first, then the current kubeconfig.

    Raises:
        CredentialsError: Neither exists, or the kubeconfig can't be used.
    """
    if (SERVICE_ACCOUNT / "token").exists():
        return _from_service_account()
    return _from_kubeconfig()


def _from_service_account() -> Connection:
    token = SERVICE_ACCOUNT / "token"
    return Connection(
        server=_server_address(os.environ),
        namespace=(SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip(),
        in_cluster=True,
        ssl_context=ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt")),
        headers=_Renewed(
            lambda: {"Authorization": f"Bearer {token.read_text(encoding='utf-8').strip()}"},
            every_seconds=TOKEN_REREAD_SECONDS,
        ),
    )


def _server_address(environment: Mapping[str, str]) -> str:
    """The API server by the address that the kubelet gives every container.

    Not by its DNS name: an operator must be able to start while the cluster's DNS is down.
    """
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if not host:
        return "https://kubernetes.default.svc"
    port = environment.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _from_kubeconfig() -> Connection:
    try:
        info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
        is_plain = info is None or info.token or info.certificate_path or info.certificate_data
        if not is_plain:
            info = _through_plugin()
    except (OSError, KeyError, kopf.LoginError) as error:
        raise CredentialsError(f"The kubeconfig can't be used: {error!r}") from error
    if info is None or not info.server:
        raise CredentialsError(
            "No API server: set KUBECONFIG, or run in a pod with a ServiceAccount token."
        )
    headers = info.as_http_headers()
    return Connection(
        server=info.server.rstrip("/"),
        namespace=info.default_namespace or "default",
        in_cluster=False,
        ssl_context=info.as_ssl_context(),
        headers=(
            (lambda: headers)
            if is_plain
            else _Renewed(
                lambda: _through_plugin().as_http_headers(), every_seconds=PLUGIN_RERUN_SECONDS
            )
        ),
    )


def _through_plugin() -> kopf.ConnectionInfo:
    # kopf's plain reader knows tokens and certificates. Exec plugins, as the clouds use them, need
    # the official client: it is no dependency of ours, as it costs a second and ten megabytes.
    info = kopf.login_via_client(
        logger=logging.getLogger(__name__), settings=kopf.OperatorSettings()
    )
    if info is None:
        raise CredentialsError(
            "The kubeconfig's user has neither token nor certificate. If it uses a plugin, "
            "`pip install kubernetes` makes that work."
        )
    return info


class _Renewed:
    """Headers that are made anew when they are old; making them may block for a moment."""

    def __init__(self, make: Callable[[], dict[str, str]], *, every_seconds: float) -> None:
        self._make = make
        self._every_seconds = every_seconds
        self._headers: dict[str, str] = {}
        self._made_at = float("-inf")

    def __call__(self) -> dict[str, str]:
        now = time.monotonic()
        if now - self._made_at >= self._every_seconds:
            self._headers = self._make()
            self._made_at = now
        return self._headers
