"""The console's files at `/` and `/assets/`, and `/v1/caller`, by which it learns what a key may see."""

from __future__ import annotations

from importlib import resources
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from serving.accounts.keys import Role
from serving.http.auth import ANONYMOUS, Gate
from serving.http.documents import documented
from serving.router import Router

SCRIPTS = (
    *("app", "api", "auction", "campaign-row", "campaigns", "chart", "chat", "elements", "format", "reasons"),
    *("revenue", "session"),
)
PAGES = {
    "/": ("index.html", "text/html"),
    "/assets/style.css": ("style.css", "text/css"),
    "/assets/console.css": ("console.css", "text/css"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
} | {f"/assets/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS}
# Trusted types: no text, wherever it comes from, becomes markup or script, not even by a later mistake in a script.
SAFETY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class CallerView(msgspec.Struct, frozen=True, kw_only=True):
    """Whose key it is; `role` None is somebody without one, who may chat where `anonymous_chat`."""

    role: Role | None = None
    key_id: str = ""
    advertiser_id: str = ""
    anonymous_chat: bool = False


def console_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Handlers of the files and of who is asking."""
    anonymous_chat = router.settings.anonymous_chat

    @get("/v1/caller", opt=documented(answer="The key's role, id and advertiser.", secured=False))
    async def caller(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Who is asking; without a key nobody in particular."""
        sent = "authorization" in request.headers
        who = await gate.caller(request, *Role, anonymous=True) if sent else ANONYMOUS
        view = CallerView(
            role=who.role, key_id=who.key_id, advertiser_id=who.advertiser_id, anonymous_chat=anonymous_chat
        )
        headers = {"Cache-Control": "no-store"}
        return Response(msgspec.json.encode(view), media_type="application/json", headers=headers)

    return [caller, *(_page(path, name, media_type) for path, (name, media_type) in PAGES.items())]


def _page(path: str, name: str, media_type: str) -> HTTPRouteHandler:
    content = (resources.files("serving") / "pages" / name).read_bytes()
    headers: dict[str, Any] = {**SAFETY_HEADERS, "Cache-Control": "no-cache"}

    @get(path)
    async def page() -> Response[bytes]:
        return Response(content, media_type=media_type, headers=headers)

    return page
