"""The console: its files at `/` and `/assets/`, and `/v1/caller`, which returns what its key may see."""

from __future__ import annotations

from importlib import resources

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from serving.accounts.keys import Role
from serving.http.auth import ANONYMOUS, Gate
from serving.http.bodies import HttpRequest, json_response
from serving.http.documents import documented
from serving.http.sessions import session_secret
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
# Trusted types: no text can become markup or script, not even by a later mistake in a script.
SAFETY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class CallerView(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's rights; `role` is None without a key, and `anonymous_chat` is then True if chat is open."""

    role: Role | None = None
    key_id: str = ""
    advertiser_id: str = ""
    anonymous_chat: bool = False


def console_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of the files and of `/v1/caller`."""
    anonymous_chat = router.settings.anonymous_chat

    @get("/v1/caller", opt=documented(answer="The key's role, id and advertiser.", secured=False))
    async def caller(request: HttpRequest) -> Response[bytes]:
        """Read the rights of the caller's key; without a key all fields are empty."""
        with_key = "authorization" in request.headers or bool(session_secret(request))
        found = await gate.caller(request, *Role, anonymous=True) if with_key else ANONYMOUS
        return json_response(
            CallerView(
                role=found.role,
                key_id=found.key_id,
                advertiser_id=found.advertiser_id,
                anonymous_chat=anonymous_chat,
            )
        )

    return [caller, *(_page(path, name, media_type) for path, (name, media_type) in PAGES.items())]


def _page(path: str, name: str, media_type: str) -> HTTPRouteHandler:
    content = (resources.files("serving") / "pages" / name).read_bytes()
    headers = {**SAFETY_HEADERS, "Cache-Control": "no-cache"}

    @get(path)
    async def page() -> Response[bytes]:
        return Response(content, media_type=media_type, headers=headers)

    return page
