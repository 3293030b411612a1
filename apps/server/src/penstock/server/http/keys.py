"""API keys: checked before anything of a request is read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.server.http.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = frozenset({"/health", "/ready", "/metrics"})
"""Paths that need no key: probes and scrapers ask for them."""


class RequireKey:
    """Answers 401 to a request without one of the keys. Keys are kept as SHA-256 and compared in constant time."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._digests and scope["path"] not in OPEN and not self._known(scope):
            error = ApiError(
                401, "no API key, or a wrong one: send `Authorization: Bearer KEY`", code="invalid_api_key"
            )
            error.headers = {"WWW-Authenticate": "Bearer"}
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found = [hmac.compare_digest(digest, each) for each in self._digests]  # all of them, whichever it is
        return scheme.lower() == b"bearer" and any(found)
