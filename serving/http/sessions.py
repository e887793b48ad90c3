"""`/v1/session`: the console's session, which begins with a one-time token and lives in a cookie that no script reads.

Browsers send cookies with every request to the host, also with those that other pages make. The cookie therefore counts
only beside a header of the console: a page of another origin cannot set it without a preflight, which is not granted.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import structlog
from litestar import Response, delete, post
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler

from serving.accounts.keys import SESSION_LIFE
from serving.accounts.sign_in import take_token
from serving.errors import ApiError
from serving.http.bodies import HttpRequest, decode_body, json_response
from serving.http.documents import documented
from serving.http.rate_limits import RateLimits
from serving.router import Router

log = structlog.get_logger(__name__)

CONSOLE_HEADER = "x-llm-auction-console"
COOKIE = "llm-auction-session"


class SessionInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one-time token of the address that `llm-auction run` prints."""

    token: str


_SESSION = msgspec.json.Decoder(SessionInput)


def session_secret(request: HttpRequest) -> str:
    """Return the key in the session cookie of a request that the console made; empty for any other request."""
    if CONSOLE_HEADER not in request.headers:
        return ""
    return request.cookies.get(_cookie_name(request), "")


def session_routes(router: Router, limits: RateLimits) -> list[HTTPRouteHandler]:
    """Create the handlers that open and end a session."""
    accounts, state_dir = router.accounts, router.settings.state_dir

    @post("/v1/session", status_code=201, opt=documented(SessionInput, answer="The session's end.", secured=False))
    async def open_session(request: HttpRequest) -> Response[bytes]:
        """Exchange a one-time token for a session of the console.

        Raises:
            ApiError: 401 if the token is unknown, expired or used up.
        """
        limits.admit_address(request)
        token, now = decode_body(await request.body(), _SESSION).token, datetime.now(UTC)
        if not await asyncio.to_thread(take_token, state_dir, token, now):
            remedy = "it was used already, or has expired: `llm-auction sign-in` prints another address"
            raise ApiError(401, f"token: {remedy}", "token", "invalid_token")
        issued = await asyncio.to_thread(accounts.open_session, now)
        log.info("session.opened", key_id=issued.key.id)
        response = json_response({"expires_at": issued.key.expires_at}, 201)
        response.set_cookie(_cookie(request, issued.secret, int(SESSION_LIFE.total_seconds())))
        return response

    @delete("/v1/session", status_code=200, opt=documented(answer="The session has ended.", secured=False))
    async def end_session(request: HttpRequest) -> Response[bytes]:
        """End the session of the console's cookie; without one nothing happens."""
        secret, now = session_secret(request), datetime.now(UTC)
        if secret:
            limits.admit_address(request)
            key = await asyncio.to_thread(accounts.find, secret, now)
            if key is not None:
                await asyncio.to_thread(accounts.revoke, key.id, now)
                log.info("session.ended", key_id=key.id)
        response = json_response({})
        response.set_cookie(_cookie(request, "", 0))
        return response

    return [open_session, end_session]


def _cookie(request: HttpRequest, value: str, seconds: int) -> Cookie:
    return Cookie(
        key=_cookie_name(request),
        value=value,
        max_age=seconds,
        path="/",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )


def _cookie_name(request: HttpRequest) -> str:
    """Return a name with the port: browsers send a host's cookies to all of its ports."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE}-{port}" if port.isascii() and port.isdigit() else COOKIE
