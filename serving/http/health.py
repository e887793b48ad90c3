"""`/livez`, `/readyz`, `/metrics` and the page's files: open to everybody, and without anything personal."""

from __future__ import annotations

from importlib import resources
from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from serving.http.documents import documented
from serving.router import Router

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


def health_routes(router: Router) -> list[HTTPRouteHandler]:
    """Handlers of health and metrics."""

    @get("/livez", opt=documented(answer="The process answers.", secured=False))
    async def livez() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @get("/readyz", opt=documented(answer="Answers and charges are possible.", secured=False))
    async def readyz() -> Response[dict[str, str]]:
        """Whether requests should come here; 503 with the reason while not."""
        problem = await router.ready()
        return Response({"status": problem or "ok"}, status_code=503 if problem else 200)

    @get("/metrics", opt=documented(answer="Prometheus' text format.", media="text/plain", secured=False))
    async def metrics() -> Response[bytes]:
        """Figures for Prometheus."""
        return Response(router.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [livez, readyz, metrics]


def page_routes() -> list[HTTPRouteHandler]:
    """Handlers of the page and its files."""
    return [_page(path, name, media_type) for path, (name, media_type) in PAGES.items()]


def _page(path: str, name: str, media_type: str) -> HTTPRouteHandler:
    content = (resources.files("serving") / "pages" / name).read_bytes()
    headers: dict[str, Any] = {**SAFETY_HEADERS, "Cache-Control": "no-cache"}

    @get(path)
    async def page() -> Response[bytes]:
        return Response(content, media_type=media_type, headers=headers)

    return page
