"""`/livez`, `/readyz`, and `/metrics` unless it has an address of its own: open to everybody who reaches this one, and
without anything personal."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from serving.http.documents import documented
from serving.router import Router


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
        return Response(router.metrics.render(), media_type="text/plain; version=0.0.4")

    return [livez, readyz] if router.settings.metrics_address else [livez, readyz, metrics]
