"""Error responses of the router: every failure in OpenAI's error shape.

Code of the router raises `ApiError`; `as_api_error` turns the project's other errors and the framework's into it, so
that no client ever sees a traceback. What is logged about an error is decided in `serving.http.app`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from litestar.exceptions import HTTPException
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import AuctionError, InputError, PolicyError
from serving.campaigns.storage import NotFound, VersionConflict

RETRY_AFTER_S = 2
DISCONNECTED = "client disconnected prematurely"
"""Litestar's error, which has no class, for a client that left before its body had arrived."""
CLIENT_CLOSED_REQUEST = 499
LONGEST_SHOWN = 80
ErrorBody: TypeAlias = dict[str, dict[str, Any]]
"""OpenAI's error object, under the key "error"."""


class ApiError(AuctionError):
    """A failure as the client sees it.

    HTTP `status`, a `message` that names the remedy, the wrong `param`, and a `code`; where several values are wrong
    (code "invalid_value"), all of them as `faults`. `retry_after_s` is when a later attempt can succeed, 0 if that is
    unknown.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        faults: Sequence[InputError] = (),
        retry_after_s: int = 0,
    ) -> None:
        self.retry_after_s = retry_after_s or (RETRY_AFTER_S if status == 503 else 0)
        self.faults = tuple(faults)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        super().__init__(message)

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` where a later attempt can succeed."""
        return {"Retry-After": str(self.retry_after_s)} if self.retry_after_s else {}

    def body(self) -> ErrorBody:
        """Return OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = "requests" if self.status == 429 else kind
        error: dict[str, Any] = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        if self.faults:
            error["fields"] = [{"field": f.place, "value": shown(f.value), "remedy": f.remedy} for f in self.faults]
        return {"error": error}


class BadFields(ApiError):
    """A 400 that names all wrong fields."""

    def __init__(self, faults: Sequence[InputError]) -> None:
        message = "; ".join(f"{fault.place}: {shown(fault.value)}: {fault.remedy}" for fault in faults)
        super().__init__(400, message, param=faults[0].place, code="invalid_value", faults=faults)


class BadRequest(BadFields):
    """A 400 that names the field, its value (shortened) and the remedy."""

    def __init__(self, param: str, value: object, remedy: str) -> None:
        super().__init__([InputError(param, value, remedy)])


class Overloaded(PolicyError):
    """A bounded queue in front of the policy is full."""


class ClientGone(PolicyError):
    """The client closed the connection before its answer was complete."""


class PolicyTimeout(PolicyError):
    """The policy did not finish within the deadline; it may still be busy, so an immediate retry would not help."""


def shown(value: object) -> str:
    """Return a value as error messages quote it: its `repr`, shortened."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def as_api_error(error: Exception) -> ApiError:
    """Return the response to any exception; an unexpected one becomes a 500 without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NotFound):
        return ApiError(404, str(error), param=error.place, code="not_found")
    if isinstance(error, VersionConflict):
        return ApiError(409, str(error), param=error.place, code="version_conflict")
    if isinstance(error, InputError):
        return BadFields([error])
    if isinstance(error, ClientGone) or (isinstance(error, HTTPException) and error.detail == DISCONNECTED):
        return ApiError(CLIENT_CLOSED_REQUEST, "the client closed the connection", code="client_gone")
    if isinstance(error, Overloaded):
        return ApiError(503, "the policy is busy: try again in a moment", code="overloaded")
    if isinstance(error, PolicyTimeout):
        return ApiError(503, "the policy did not answer in time: try again in a moment", code="timeout")
    if isinstance(error, AuctionError):
        return ApiError(503, "the policy cannot answer now: try again in a moment", code="policy_unavailable")
    if isinstance(error, HTTPException):
        return _from_framework(error)
    if isinstance(error, SQLAlchemyError):
        return ApiError(503, "the database does not answer: try again in a moment", code="database_unavailable")
    return ApiError(500, "the server failed unexpectedly; its log has the details", code="internal_error")


def sse_error(error: Exception) -> bytes:
    """Encode an error as the last event of a stream that has begun, when the status line is already sent."""
    return b"data: " + msgspec.json.encode(as_api_error(error).body()) + b"\n\n"


def _from_framework(error: HTTPException) -> ApiError:
    messages = {
        404: "no page has this address: see /openapi.json",
        405: "this address does not accept that method",
        413: "the request is too large: send fewer or shorter messages, or a smaller file",
    }
    return ApiError(error.status_code, messages.get(error.status_code, error.detail))
