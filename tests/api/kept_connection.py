"""Reads over a connection that is kept: who looks twenty times a second need not greet each time.

A module of its own because only a crowd of waiting tests feels it; a test that takes the API server
away wants each request to stand for itself.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
import urllib.error
import urllib.parse
from email.message import Message

from tests.api.operator_process import ApiServer, Object


class KeptApiServer(ApiServer):
    """Plain reads and writes as administrator, by a connection for each thread."""

    _kept = threading.local()

    def request(self, verb: str, path: str, body: Object | None = None, kind: str = "") -> Object:
        if verb != "GET":
            return super().request(verb, path, body, kind)
        try:
            status, content = self._ask(path)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException):
            # It was closed meanwhile: reading again does no harm.
            self._forget()
            return super().request(verb, path)
        if status >= 400:
            refused = io.BytesIO(content)
            raise urllib.error.HTTPError(path, status, content.decode(), Message(), refused)
        document: Object = json.loads(content)
        return document

    def _ask(self, path: str) -> tuple[int, bytes]:
        connection = self._connection()
        connection.request("GET", path, headers={**self._headers})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _connection(self) -> http.client.HTTPSConnection:
        known: dict[str, http.client.HTTPSConnection] = self._kept.__dict__
        if self._server not in known:
            place = urllib.parse.urlsplit(self._server)
            assert place.hostname is not None
            known[self._server] = http.client.HTTPSConnection(
                place.hostname, place.port, context=self._tls, timeout=15
            )
        return known[self._server]

    def _forget(self) -> None:
        connection = self._kept.__dict__.pop(self._server, None)
        if connection is not None:
            connection.close()
