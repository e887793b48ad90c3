"""What the router answers when it cannot answer: every failure in OpenAI's error shape.

`ApiError` is raised by this room; `as_api_error` also turns the project's own errors and the framework's into
the same shape, so that no client ever sees a traceback. What is logged about them is decided in `serving.http.app`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar.exceptions import HTTPException
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import AuctionError, InputError, PolicyError
from serving.campaigns.storage import NotFound, VersionConflict

RETRY_AFTER_S = 2
CLIENT_CLOSED_REQUEST = 499


class ApiError(AuctionError):
    """An answerable failure: HTTP `status`, a `message` that says what to do, the offending `param`, a `code`, and
    where values are wrong (code "invalid_value") all of them as `faults`."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        faults: Sequence[InputError] = (),
    ) -> None:
        self.faults = tuple(faults)
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
        error: dict[str, Any] = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        if self.faults:
            error["fields"] = [{"field": f.place, "value": shown(f.value), "remedy": f.remedy} for f in self.faults]
        return {"error": error}


class Overloaded(PolicyError):
    """The bounded queue in front of the policy is full."""


class ClientGone(PolicyError):
    """The client closed the connection before its answer: nobody reads what is said about it."""


class PolicyTimeout(PolicyError):
    """The policy did not finish within the deadline; it may still be busy, so trying again at once is no use."""


def bad_request(param: str, value: object, remedy: str) -> ApiError:
    """A 400 that names the field, shows the value (shortened) and says what to do."""
    return bad_fields([InputError(param, value, remedy)])


def shown(value: object) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def bad_fields(faults: Sequence[InputError]) -> ApiError:
    """A 400 that names all bad fields at once."""
    message = "; ".join(f"{fault.place}: {shown(fault.value)}: {fault.remedy}" for fault in faults)
    return ApiError(400, message, param=faults[0].place, code="invalid_value", faults=faults)


def as_api_error(error: Exception) -> ApiError:
    """The answer to any exception; one that nobody foresaw becomes a plain 500 without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, NotFound):
        return ApiError(404, str(error), param=error.place, code="not_found")
    if isinstance(error, VersionConflict):
        return ApiError(409, str(error), param=error.place, code="version_conflict")
    if isinstance(error, InputError):
        return bad_fields([error])
    if isinstance(error, ClientGone):
        return ApiError(CLIENT_CLOSED_REQUEST, "the client closed the connection", code="client_gone")
    if isinstance(error, Overloaded):
        return ApiError(503, "the policy is busy: try again in a moment", code="overloaded")
    if isinstance(error, PolicyTimeout):
        return ApiError(503, "the policy did not answer in time: try again in a moment", code="timeout")
    if isinstance(error, AuctionError):
        return ApiError(503, "the policy cannot answer just now: try again in a moment", code="policy_unavailable")
    if isinstance(error, HTTPException):
        return _from_framework(error)
    if isinstance(error, SQLAlchemyError):
        return ApiError(503, "the database does not answer: try again in a moment", code="database_unavailable")
    return ApiError(500, "the server failed unexpectedly; its log has the details", code="internal_error")


def sse_error(error: Exception) -> bytes:
    """The error as the last event of a stream that has begun: the status line is gone by then."""
    return b"data: " + msgspec.json.encode(as_api_error(error).body()) + b"\n\n"


def _from_framework(error: HTTPException) -> ApiError:
    remedies = {
        404: "there is no such page: see /openapi.json",
        405: "this address does not take that method",
        413: "the request is too large: send fewer or shorter messages",
    }
    return ApiError(error.status_code, remedies.get(error.status_code, error.detail))
