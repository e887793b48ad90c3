"""The web server around a router's application."""

from __future__ import annotations

import asyncio

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.app import create_app
from serving.router import Router

KEEP_ALIVE_S = 75


class _DrainingProtocol(HttpToolsProtocol):
    """Lets `send` wait until the socket has taken all bytes before: by default up to 64 KiB wait in the process."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)


def server_of(router: Router) -> uvicorn.Server:
    """Return the server of a router; it drains the answers under way when it stops.

    The server itself believes no forwarding header: `serving.http.proxies` decides whose may be believed.
    """
    return uvicorn.Server(
        uvicorn.Config(
            create_app(router),
            http=_DrainingProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(router.settings.drain_s),
        )
    )
