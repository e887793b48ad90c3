"""The router as an ASGI application: routes, error responses, health, metrics, the OpenAPI document, start and stop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

import structlog
from litestar import Litestar, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.types import Message, Scope

from serving.errors import ErrorBody, as_api_error
from serving.http.accounts import account_routes
from serving.http.auctions import auction_routes
from serving.http.auth import Gate, key_routes
from serving.http.bodies import HttpRequest
from serving.http.campaign_batches import batch_routes
from serving.http.campaigns import campaign_routes
from serving.http.changes import change_routes
from serving.http.chat import chat_routes
from serving.http.clicks import click_routes
from serving.http.console import console_routes
from serving.http.conversions import conversion_routes
from serving.http.documents import documented, openapi
from serving.http.erasures import erasure_routes
from serving.http.proxies import ProxyMiddleware, TrustedProxies
from serving.http.publishers import publisher_routes
from serving.http.rate_limits import RateLimits
from serving.http.reports import report_routes
from serving.http.responses import responses_routes
from serving.http.sessions import session_routes
from serving.router import Router

log = structlog.get_logger(__name__)

LARGEST_BODY = 1_000_000
SAFETY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""Of every response that sets no other ones: JSON and text load nothing and are shown in no frame."""


def create_app(router: Router) -> Litestar:
    """Create the application around a router's parts; its lifespan starts and stops them."""
    limits = RateLimits(router.settings, router.metrics)
    gate = Gate(router.accounts, router.settings, limits)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await router.start()
        try:
            yield
        finally:
            await router.stop()

    def answer_error(request: HttpRequest, error: Exception) -> Response[ErrorBody]:
        answer = as_api_error(error)
        template = str(request.scope.get("path_template", "")) or "unknown"
        router.metrics.requests.labels(template, str(answer.status)).inc()
        if answer.status == 500:
            log.error("http.unexpected_error", reason=type(error).__name__, where=_origin(error))
        return Response(answer.body(), status_code=answer.status, headers=answer.headers)

    handlers = [
        *chat_routes(router, gate),
        *responses_routes(router, gate),
        *auction_routes(router, gate),
        *campaign_routes(router, gate),
        *batch_routes(router, gate),
        *key_routes(router, gate),
        *session_routes(router, limits),
        *report_routes(router, gate),
        *erasure_routes(router, gate),
        *click_routes(router, limits),
        *conversion_routes(router, gate),
        *publisher_routes(router, gate),
        *account_routes(router, gate),
        *change_routes(router, gate),
        *_health_routes(router),
        *console_routes(router, gate),
    ]
    proxies = TrustedProxies(router.settings.trusted_proxies, router.settings.forwarded_header)
    app = Litestar(
        route_handlers=[_with_head(handler) for handler in handlers],
        exception_handlers={Exception: answer_error},
        before_send=[_add_safety_headers],
        lifespan=[lifespan],
        middleware=[DefineMiddleware(ProxyMiddleware, proxies=proxies)] if router.settings.trusted_proxies else [],
        request_max_body_size=LARGEST_BODY,
        logging_config=None,
        openapi_config=None,
    )
    app.register(_with_head(_document_route(openapi(app, _version()))))
    return app


async def _add_safety_headers(message: Message, scope: Scope) -> None:
    """Add the safety headers that a response does not set itself."""
    if message["type"] == "http.response.start":
        own = [(name.lower(), value) for name, value in message["headers"]]
        given = {name for name, _ in own}
        message["headers"] = [*own, *(header for header in SAFETY_HEADERS if header[0] not in given)]


def _health_routes(router: Router) -> list[HTTPRouteHandler]:
    """Create `/livez`, `/readyz`, and `/metrics` unless it has an address of its own; all are open without a key."""

    @get("/livez", opt=documented(answer="The process answers.", secured=False))
    async def livez() -> dict[str, str]:
        """Check whether the process is alive."""
        return {"status": "ok"}

    @get("/readyz", opt=documented(answer="Answers and charges are possible.", secured=False))
    async def readyz() -> Response[dict[str, str | int]]:
        """Check whether the router accepts requests; 503 with the reason if not.

        `ledger_lag_s` is how long an event may have waited for the ledger, `ads` why answers have none.
        """
        problem = await router.ready()
        state: dict[str, str | int] = {"status": problem or "ok", "ads": router.context.paused or "ok"}
        return Response(state | {"ledger_lag_s": round(router.progress.lag_s)}, status_code=503 if problem else 200)

    @get("/metrics", opt=documented(answer="Prometheus' text format.", media="text/plain", secured=False))
    async def metrics() -> Response[bytes]:
        """Read the metrics, for Prometheus."""
        return Response(router.metrics.render(), media_type="text/plain; version=0.0.4")

    return [livez, readyz] if router.settings.metrics_address else [livez, readyz, metrics]


def _with_head(handler: HTTPRouteHandler) -> HTTPRouteHandler:
    """Let a GET handler answer HEAD, too; the server leaves the body out."""
    if "GET" in handler.http_methods:
        handler.http_methods.add("HEAD")
    return handler


def _document_route(content: bytes) -> HTTPRouteHandler:
    @get("/openapi.json")
    async def document() -> Response[bytes]:
        return Response(content, media_type="application/json")

    return document


def _origin(error: Exception) -> str:
    """Return file and line of an error; its message and the traceback's values may quote what a user wrote."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown"


def _version() -> str:
    try:
        return version("llm-auction")
    except PackageNotFoundError:  # run from a checkout
        return "0"
