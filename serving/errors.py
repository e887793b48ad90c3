"""What the router answers when it cannot answer: every failure in OpenAI's error shape.

`ApiError` is raised by this room; `error_response` also turns the project's own errors and the framework's into
the same shape, so that no client ever sees a traceback. What is logged about them is decided in `serving.app`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.exceptions import HTTPException

from mechanism.errors import AuctionError, InputError, PolicyError

RETRY_AFTER_S = 2


class ApiError(AuctionError):
    """An answerable failure: HTTP `status`, a `message` that says what to do, the offending `param`, a `code`."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        super().__init__(message)

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` where trying again later can help."""
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else {}

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class Overloaded(PolicyError):
    """The bounded queue in front of the policy is full."""


class PolicyTimeout(PolicyError):
    """The policy did not finish within the deadline; it may still be busy, so trying again at once is no use."""


def bad_request(param: str, value: object, remedy: str) -> ApiError:
    """A 400 that names the field, shows the value (shortened) and says what to do."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return ApiError(400, f"{param}: {shown}: {remedy}", param=param, code="invalid_value")


def as_api_error(error: Exception) -> ApiError:
    """The answer to any exception; one that nobody foresaw becomes a plain 500 without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return ApiError(400, str(error), param=error.place, code="invalid_value")
    if isinstance(error, Overloaded):
        return ApiError(503, "the policy is busy: try again in a moment", code="overloaded")
    if isinstance(error, PolicyTimeout):
        return ApiError(503, "the policy did not answer in time: try again in a moment", code="timeout")
    if isinstance(error, AuctionError):
        return ApiError(503, "the policy cannot answer just now: try again in a moment", code="policy_unavailable")
    if isinstance(error, HTTPException):
        return _from_framework(error)
    return ApiError(500, "the server failed unexpectedly; its log has the details", code="internal_error")


def sse_error(error: Exception) -> bytes:
    """The error as the last event of a stream that has begun: the status line is gone by then."""
    return b"data: " + msgspec.json.encode(as_api_error(error).body()) + b"\n\n"


def _from_framework(error: HTTPException) -> ApiError:
    remedies = {
        404: "there is no such page: see /v1/models, /v1/chat/completions, /v1/ledger",
        405: "this address does not take that method",
        413: "the request is too large: send fewer or shorter messages",
    }
    return ApiError(error.status_code, remedies.get(error.status_code, error.detail))
