"""The web server around a router's application."""

from __future__ import annotations

import uvicorn

from serving.http.app import create_app
from serving.http.connections import ConnectionLimits, limited_protocol
from serving.router import Router

KEEP_ALIVE_S = 75


def server_of(router: Router) -> uvicorn.Server:
    """Return the server of a router; it drains the answers under way when it stops.

    The server itself believes no forwarding header: `serving.http.proxies` decides whose may be believed.
    """
    settings = router.settings
    limits = ConnectionLimits(
        settings.connections,
        settings.head_s,
        settings.body_s,
        refused=lambda reason: router.metrics.refused_connections.labels(reason).inc(),
    )
    return uvicorn.Server(
        uvicorn.Config(
            create_app(router),
            http=limited_protocol(limits),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(settings.drain_s),
        )
    )
