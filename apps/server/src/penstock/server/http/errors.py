"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import JSONResponse

LONGEST = 500
"""Characters of a message or a parameter: what they repeat of a request may be as long as its body."""


@dataclass
class ApiError(Exception):
    """An answer that is no result. `param` is the field of the request that it is about."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def body(self) -> dict[str, object]:
        param = None if self.param is None else _short(self.param)
        return {"error": {"message": _short(self.message), "type": self.type, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=dict(self.headers))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def unsupported(param: str, what: str) -> ApiError:
    return ApiError(400, what, param=param, code="unsupported_parameter")


def busy(message: str) -> ApiError:
    return ApiError(429, message, "rate_limit_error", code="queue_full", headers={"Retry-After": "1"})


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, "server_error", code="unavailable", headers={"Retry-After": "2"})
