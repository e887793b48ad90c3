"""The web server around a router's application."""

from __future__ import annotations

import uvicorn

from serving.http.app import create_app
from serving.router import Router

KEEP_ALIVE_S = 75


def server_of(router: Router) -> uvicorn.Server:
    """Return the server of a router; it drains the answers under way when it stops.

    The server itself believes no forwarding header: `serving.http.proxies` decides whose may be believed.
    """
    return uvicorn.Server(
        uvicorn.Config(
            create_app(router),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(router.settings.drain_s),
        )
    )
