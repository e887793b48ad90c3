"""The router as an ASGI application: routes, error shape, OpenAPI document, start and stop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler

from serving.errors import ApiError, as_api_error
from serving.http.auctions import auction_routes
from serving.http.auth import Gate
from serving.http.campaigns import campaign_routes
from serving.http.chat import chat_routes
from serving.http.clicks import click_routes
from serving.http.console import console_routes
from serving.http.deliveries import delivery_routes
from serving.http.documents import openapi
from serving.http.health import health_routes
from serving.http.keys import key_routes
from serving.http.reports import report_routes
from serving.http.series import series_routes
from serving.router import Router

log = structlog.get_logger(__name__)

LARGEST_BODY = 1_000_000


def create_app(router: Router) -> Litestar:
    """The application around a router's parts; its lifespan starts and stops them."""
    gate = Gate(router.accounts, router.settings.anonymous_chat)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await router.start()
        try:
            yield
        finally:
            await router.stop()

    def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
        answer: ApiError = as_api_error(error)
        template = str(request.scope.get("path_template", "")) or "unknown"
        router.metrics.requests.labels(template, str(answer.status)).inc()
        if answer.status == 500:
            # Neither the message nor the traceback's values: both may quote what a user wrote.
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown"
            log.error("unexpected failure", reason=type(error).__name__, where=where)
        return Response(answer.body(), status_code=answer.status, headers=answer.headers)

    handlers = [
        *chat_routes(router, gate),
        *auction_routes(router, gate),
        *campaign_routes(router, gate),
        *delivery_routes(router, gate),
        *key_routes(router, gate),
        *report_routes(router, gate),
        *series_routes(router, gate),
        *click_routes(router),
        *health_routes(router),
        *console_routes(router, gate),
    ]
    app = Litestar(
        route_handlers=[_with_head(handler) for handler in handlers],
        exception_handlers={Exception: answer_error},
        lifespan=[lifespan],
        request_max_body_size=LARGEST_BODY,
        logging_config=None,
        openapi_config=None,
    )
    app.register(_with_head(_document(openapi(app, _version()))))
    return app


def _with_head(handler: HTTPRouteHandler) -> HTTPRouteHandler:
    """What answers GET answers HEAD the same; the server leaves the body out."""
    if "GET" in handler.http_methods:
        handler.http_methods.add("HEAD")
    return handler


def _document(content: bytes) -> HTTPRouteHandler:
    @get("/openapi.json")
    async def document() -> Response[bytes]:
        return Response(content, media_type="application/json")

    return document


def _version() -> str:
    try:
        return version("llm-auction")
    except PackageNotFoundError:  # run from a checkout
        return "0"
