"""The router as an ASGI application: routes, the page, health, error shape, start and stop."""

from __future__ import annotations

from importlib import resources
from typing import Any

import structlog
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.exc import SQLAlchemyError

from serving.auctioneer import Auctioneer
from serving.audit import AuditTrail
from serving.catalogue import Catalogue
from serving.chat import chat_routes
from serving.clicks import click_routes
from serving.errors import ApiError, as_api_error
from serving.ledger import Ledger
from serving.policy import PolicyBackend
from serving.retrieval import Encoder, Retriever
from serving.settings import ServeSettings
from serving.tokens import TokenSigner
from serving.worker import PolicyWorker

log = structlog.get_logger(__name__)

LARGEST_BODY = 1_000_000
PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/assets/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/assets/auction.js": ("auction.js", "text/javascript; charset=utf-8"),
    "/assets/style.css": ("style.css", "text/css; charset=utf-8"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}
SAFETY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def create_app(
    catalogue: Catalogue,
    backend: PolicyBackend,
    encoder: Encoder,
    secret: bytes,
    model: str,
    settings: ServeSettings,
) -> Litestar:
    """The application that serves `model` (its public name) with the ads of `catalogue`; opens the ledger."""
    ledger = Ledger(settings.ledger_path)
    signer = TokenSigner(secret)
    worker = PolicyWorker(backend, settings.waiting, settings.deadline_s)
    auctioneer = Auctioneer(
        model, Retriever(catalogue, encoder), worker, signer, AuditTrail(settings.audited_answers), settings
    )

    def stop() -> None:
        worker.close()
        ledger.close()

    return Litestar(
        route_handlers=[
            *chat_routes(auctioneer, settings.public_url),
            *click_routes(catalogue, signer, ledger),
            *_health_routes(worker, ledger),
            *(_page(path, name, media_type) for path, (name, media_type) in PAGES.items()),
        ],
        exception_handlers={Exception: _answer_error},
        on_shutdown=[stop],
        request_max_body_size=LARGEST_BODY,
        logging_config=None,
        openapi_config=None,
    )


def _health_routes(worker: PolicyWorker, ledger: Ledger) -> list[HTTPRouteHandler]:
    @get("/livez", sync_to_thread=False)
    def livez() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", sync_to_thread=True)
    def readyz() -> Response[dict[str, str]]:
        """503 with the reason while answers or charges are impossible."""
        if worker.stuck():
            return Response({"status": "the policy hangs"}, status_code=503)
        try:
            ledger.ready()
        except SQLAlchemyError:
            return Response({"status": "the ledger cannot be opened"}, status_code=503)
        return Response({"status": "ok"})

    return [livez, readyz]


def _page(path: str, name: str, media_type: str) -> HTTPRouteHandler:
    content = (resources.files("serving") / "pages" / name).read_bytes()
    headers = {**SAFETY_HEADERS, "Cache-Control": "no-cache"}

    @get(path, sync_to_thread=False)
    def page() -> Response[bytes]:
        return Response(content, media_type=media_type, headers=headers)

    return page


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    answer: ApiError = as_api_error(error)
    if answer.status == 500:
        # Neither the message nor the traceback's values: both may quote what a user wrote.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown"
        log.error("unexpected failure", reason=type(error).__name__, where=where)
    return Response(answer.body(), status_code=answer.status, headers=answer.headers)
