"""A lean client for the few requests the operator makes itself.

Lean on purpose: plain JSON over one aiohttp session. The official async client, used for the same
writes, cost 135 MB of memory and a third more CPU time (docs/operator.md has the figures).
"""

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from lora_operator.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    NotFoundError,
    RefusedError,
    TooLargeError,
    UnavailableError,
)
from lora_operator.kube.resources import PODS, Resource

Object = dict[str, Any]

TIMEOUT_SECONDS = 15.0
PAGE_SIZE = 500
CHUNK_BYTES = 64 * 1024
# Whoever answers may ask for any patience; a run that is not looked at can't be cancelled either.
MAX_RETRY_AFTER_SECONDS = 60.0
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
MERGE_PATCH = "application/merge-patch+json"


def no_listener(_date: str, _took_seconds: float) -> None:
    """Where nobody wants to know what time it is."""


def no_guard() -> float:
    """Where nobody else can lead, a write takes as long as any request may."""
    return TIMEOUT_SECONDS


class KubeClient:
    """Reads and writes of single objects; every write passes the leader's guard."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        server: str,
        guard: Callable[[], float] = no_guard,
        timeout_seconds: float = TIMEOUT_SECONDS,
        on_date: Callable[[str, float], None] = no_listener,
    ) -> None:
        """Use an authorised session.

        Args:
            session: Carries credentials by itself.
            server: Base URL of the API server.
            guard: Raises where this process may not write (it lost the Lease); otherwise says how
                many seconds a write may take.
            timeout_seconds: How long any other request may take.
            on_date: Told by each answer when it was given (its `Date` header), and how many
                seconds the request took.
        """
        self._session = session
        self._server = server
        self._guard = guard
        self._timeout_seconds = timeout_seconds
        self._on_date = on_date

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """Read one object, live; a namespace is missing where the kind has none."""
        return await self._request("GET", resource.path(namespace, name))

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Create an object and return it as stored."""
        limit = self._guard()
        return await self._request("POST", resource.path(namespace), body=body, limit=limit)

    async def patch_status(
        self, resource: Resource, namespace: str, name: str, body: Object
    ) -> Object:
        """Merge-patch the status subresource; `metadata.resourceVersion` in it is compared."""
        limit = self._guard()
        path = resource.path(namespace, name, "status")
        return await self._request("PATCH", path, body=body, content_type=MERGE_PATCH, limit=limit)

    async def patch(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Merge-patch an object; `metadata.uid` in it is compared."""
        limit = self._guard()
        path = resource.path(namespace, name)
        return await self._request("PATCH", path, body=body, content_type=MERGE_PATCH, limit=limit)

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, propagation: str
    ) -> None:
        """Begin the deletion of this very object.

        Raises:
            NotFoundError: It is gone.
            ConflictError: Another object has its name by now.
        """
        limit = self._guard()
        options = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        await self._request("DELETE", resource.path(namespace, name), body=options, limit=limit)

    async def evict(self, namespace: str, name: str, *, uid: str) -> None:
        """Begin the eviction of this very pod: a deletion that its Job does not call a failure.

        Raises:
            NotFoundError: It is gone.
            ConflictError: Another pod has its name by now.
            UnavailableError: A disruption budget protects it (cause `DisruptionBudget`), more than
                one does (status 500), or the API server has no time for us.
        """
        limit = self._guard()
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        path = PODS.path(namespace, name, "eviction")
        await self._request("POST", path, body=body, limit=limit)

    async def replace_unguarded(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Replace an object whoever leads; for the Lease itself, whose version is the guard."""
        return await self._request(
            "PUT", resource.path(namespace, body["metadata"]["name"]), body=body
        )

    async def create_unguarded(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Create an object whoever leads; for the Lease itself."""
        return await self._request("POST", resource.path(namespace), body=body)

    async def list_objects(
        self, resource: Resource, namespace: str, *, params: dict[str, str]
    ) -> list[Object]:
        """Read one page of a namespace's objects, chosen by selectors in `params`."""
        answer = await self._request("GET", resource.path(namespace), params=params)
        items: list[Object] = answer.get("items") or []
        return items

    async def list_metadata(
        self, resource: Resource, namespace: str | None, *, label_selector: str | None
    ) -> AsyncIterator[Object]:
        """Read all objects page by page, metadata alone; consistent with the latest write."""
        params = {"labelSelector": label_selector} if label_selector else {}
        async for item in self._pages(resource, namespace, params, accept=METADATA_ONLY):
            yield item

    async def list_page(
        self, resource: Resource, namespace: str, *, params: dict[str, str], most_bytes: int
    ) -> Object:
        """Read one page of a namespace's objects, with where the next one begins.

        Args:
            resource: Kind.
            namespace: Where.
            params: Selectors, `limit` and `continue`.
            most_bytes: How long the answer may be.

        Raises:
            TooLargeError: It was longer; what came of it is thrown away.
        """
        path = resource.path(namespace)
        return await self._request("GET", path, params=params, most_bytes=most_bytes)

    async def _pages(
        self,
        resource: Resource,
        namespace: str | None,
        selectors: dict[str, str],
        accept: str = "application/json",
    ) -> AsyncIterator[Object]:
        async for page in self.pages(resource, namespace, selectors, accept):
            for item in page.get("items") or ():
                yield item

    async def pages(
        self,
        resource: Resource,
        namespace: str | None,
        selectors: dict[str, str],
        accept: str = "application/json",
    ) -> AsyncIterator[Object]:
        """Read lists, each a page with the metadata of all: they show one moment together."""
        params = {"limit": str(PAGE_SIZE), **selectors}
        while True:
            page = await self._request(
                "GET", resource.path(namespace), params=params, accept=accept
            )
            yield page
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            params["continue"] = token

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows this kind."""
        try:
            group = await self._request("GET", f"/apis/{resource.group}/{resource.version}")
        except NotFoundError:
            return False
        return any(kind["name"] == resource.plural for kind in group.get("resources", []))

    async def _request(
        self,
        verb: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        limit: float = TIMEOUT_SECONDS,
        most_bytes: int | None = None,
    ) -> Object:
        begun = time.monotonic()
        try:
            async with self._session.request(
                verb,
                self._server + path,
                params=params,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type, "Accept": accept},
                timeout=aiohttp.ClientTimeout(total=min(limit, self._timeout_seconds)),
            ) as response:
                self._on_date(response.headers.get("Date", ""), time.monotonic() - begun)
                content = await _content(response, most_bytes)
                if response.status >= 400:
                    raise api_error(verb, path, response, content)
                return _document(verb, path, content)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise UnavailableError(f"{verb} {path}: no answer ({error!r})") from error


async def _content(response: aiohttp.ClientResponse, most_bytes: int | None) -> bytes:
    if most_bytes is None:
        return await response.read()
    content = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        content += chunk
        if len(content) > most_bytes:
            raise TooLargeError(f"The answer is longer than {most_bytes} bytes.")
    return bytes(content)


def _document(verb: str, path: str, content: bytes) -> Object:
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        # A proxy's page, or an answer cut short: whatever it is, the API server did not say it.
        said = content[:200].decode(errors="replace")
        raise UnavailableError(f"{verb} {path}: the answer is no JSON object: {said!r}")
    return document


def api_error(verb: str, path: str, response: aiohttp.ClientResponse, content: bytes) -> ApiError:
    """What an answer with a status of 400 or more means."""
    try:
        status = json.loads(content)
        message, reason = str(status.get("message", "")), str(status.get("reason", ""))
        causes = (status.get("details") or {}).get("causes") or ()
        kinds = frozenset(str(cause.get("reason", "")) for cause in causes)
    except (ValueError, AttributeError):
        message, reason, kinds = content[:500].decode(errors="replace"), "", frozenset()
    code = response.status
    text = message or f"{verb} {path}: HTTP {code}"
    if code == 404:
        return NotFoundError(text, status=code)
    if code == 409:
        kind = AlreadyExistsError if reason == "AlreadyExists" else ConflictError
        return kind(text, status=code)
    if code == 429 or code >= 500:
        return UnavailableError(
            f"{verb} {path}: HTTP {code}: {message}",
            status=code,
            retry_after_seconds=_retry_after(response.headers.get("Retry-After", "")),
            causes=kinds,
        )
    return RefusedError(text, status=code)


def _retry_after(header: str) -> float | None:
    # Some write a date; without a number our own back-off has to do.
    digits = header.isascii() and header.isdigit()
    return min(float(header), MAX_RETRY_AFTER_SECONDS) if digits else None
