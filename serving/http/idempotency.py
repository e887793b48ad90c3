"""The header Idempotency-Key: a retry gets the answer to the first request, and nothing is done twice.

A request that fails leaves no answer: its retry is a first request. See `serving.accounts.idempotency`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog
from litestar import Response
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from serving.accounts.idempotency import Claim, IdempotencyStore, KeyReused, StillRunning, StoredAnswer
from serving.errors import RETRY_AFTER_S, ApiError, BadRequest
from serving.http.auth import Caller
from serving.http.bodies import HttpRequest, json_response

log = structlog.get_logger(__name__)

HEADER = "Idempotency-Key"
LONGEST_KEY = 255
IN_USE = "idempotency_key_in_use"
ABANDONED_AFTER = timedelta(minutes=1)
"""A claim that was not renewed for this long is of a router that is gone; routers renew theirs every few seconds."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request. `stored` is the answer to an earlier one with its key; `claim` is None without a key."""

    store: IdempotencyStore
    claim: Claim | None = None
    stored: StoredAnswer | None = None

    def recorder(self, status: int) -> Callable[[Connection, Any], None]:
        """Return what stores the JSON response to a change, in the transaction of the change."""

        def record(connection: Connection, value: object) -> None:
            if self.claim is not None:
                answer = StoredAnswer(status, "application/json", msgspec.json.encode(value))
                self.store.record(connection, self.claim, answer)

        return record

    async def save(self, answer: StoredAnswer) -> None:
        """Store an answer that is about to be sent; without the database it is sent all the same."""
        if self.claim is None:
            return
        try:
            await asyncio.to_thread(self.store.save, self.claim, answer)
        except (SQLAlchemyError, StillRunning) as error:
            log.error("idempotency.answer_not_stored", reason=type(error).__name__)

    async def release(self) -> None:
        """Give the claim back after a failure."""
        if self.claim is not None:
            with suppress(SQLAlchemyError):
                await asyncio.to_thread(self.store.release, self.claim)


def refuse_key(request: HttpRequest) -> None:
    """Refuse the header where nothing is stored for a retry.

    Raises:
        BadRequest: if the request has it.
    """
    key = request.headers.get(HEADER.lower())
    if key is not None:
        raise BadRequest(HEADER, key, "leave it out: answers without ads by the model server are not kept for retries")


async def begin(store: IdempotencyStore, request: HttpRequest, caller: Caller) -> Attempt:
    """Claim the request's key, or find the answer to an earlier request with it.

    Raises:
        ApiError: 409 while the first request runs, 422 if it was another request.
        BadRequest: if the key is malformed, or the caller has no API key to which it could belong.
    """
    key = request.headers.get(HEADER.lower())
    if key is None:
        return Attempt(store)
    if not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise BadRequest(HEADER, key, f"send 1 to {LONGEST_KEY} printable ASCII characters, such as a UUID")
    if not caller.key_id:
        raise BadRequest(HEADER, key, "send an API key with it: without one, all callers would share their keys")
    query = f"?{request.url.query}" if request.url.query else ""
    whole = f"{request.method} {request.url.path}{query}\0".encode() + await request.body()
    now = datetime.now(UTC)
    try:
        found = await asyncio.to_thread(store.begin, caller.key_id, key, whole, now, ABANDONED_AFTER)
    except KeyReused as error:
        message = f"{HEADER}: {key[:64]!r} was sent with another request: send a new key with every new request"
        raise ApiError(422, message, HEADER, "idempotency_key_reused") from error
    except StillRunning as error:
        raise ApiError(409, _in_use(key), HEADER, IN_USE, retry_after_s=RETRY_AFTER_S) from error
    match found:
        case StoredAnswer():
            return Attempt(store, stored=found)
        case Claim():
            return Attempt(store, claim=found)


@asynccontextmanager
async def attempt(store: IdempotencyStore, request: HttpRequest, caller: Caller) -> AsyncIterator[Attempt]:
    """Run a change under the request's key; a failure releases it.

    Raises:
        ApiError: as `begin`; 409 also if another request with the key took over, so that nothing was changed.
    """
    begun = await begin(store, request, caller)
    try:
        yield begun
    except StillRunning as error:
        message = _in_use(request.headers[HEADER.lower()])
        raise ApiError(409, message, HEADER, IN_USE, retry_after_s=RETRY_AFTER_S) from error
    except BaseException:
        await begun.release()
        raise


def _in_use(key: str) -> str:
    return f"{HEADER}: another request with {key[:64]!r} is not answered yet: try again in a moment"


def replay(stored: StoredAnswer) -> Response[bytes]:
    """Return the answer to an earlier request."""
    response = json_response(msgspec.Raw(stored.body), stored.status)
    response.headers["Idempotency-Replayed"] = "true"
    return response
